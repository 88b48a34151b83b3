"""The lab `netns`: every host a set of namespaces on this machine. Needs root; nothing of it shows in the root namespaces."""
