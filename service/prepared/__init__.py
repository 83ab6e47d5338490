"""Prepared blobs: what verifying and folding an adapter gave, kept on the local disk for whoever loads it next."""
