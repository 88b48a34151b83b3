"""What the nodes said to each other and to the storage host, read off the captures by the harness's own decoders."""
