"""What `make bench` measures and the claims of the engine judge: one code for both."""
