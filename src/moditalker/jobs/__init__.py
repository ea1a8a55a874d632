"""Work: streams and threads (`streams`, `machine`), worker processes (`pool`), files and folders."""
