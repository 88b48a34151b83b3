"""Labs: hosts and networks that scenarios run on. `interface` says what a scenario may use of them."""
