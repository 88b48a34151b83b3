"""The Vagrant lab from outside: brings the nested machines up and down, with all that they need on this one."""
