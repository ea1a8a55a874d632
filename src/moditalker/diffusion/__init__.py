"""The diffusion process (`process`), and the layers that the networks share (`layers`)."""
