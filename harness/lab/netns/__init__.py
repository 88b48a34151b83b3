"""The lab `netns`: every host a set of namespaces on this machine. Nothing of it shows in the root namespaces."""
