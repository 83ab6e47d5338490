"""Every number Espalier promises, measured: one module a group of lines, `make claims-main` runs all."""
