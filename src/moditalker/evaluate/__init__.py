"""Videos in, the paper's tables out: pairs -> observe -> measures -> run -> report."""
