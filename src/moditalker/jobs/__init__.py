"""Tools for long work: streams, threads (`machine`), worker processes (`pool`), files and folders."""
