"""One small file per family of data sets; each returns tables (`Benchmark`, `Manifest`), never a Dataset class."""
