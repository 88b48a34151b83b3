"""What has to hold on the hosts of the Vagrant lab before a scenario means anything; `make lab-smoke` begins so."""
