"""The lab of nested virtual machines, made by `lab/Vagrantfile`: `--lab=vagrant`."""
