"""Domain Negotiation and MAMDR over many processes, on Ray: parameter shards, workers that own domains, two caches."""
