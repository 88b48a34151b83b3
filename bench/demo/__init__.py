"""A VM to watch, live: two hosts lose their power one after the other, and it has a backup again each time."""
