"""How a replica is put together: what is in memory, what loads it, what scores, what publishes, what follows."""
