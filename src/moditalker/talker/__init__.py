"""Where the stages meet: media -> features -> motion -> video -> media."""
