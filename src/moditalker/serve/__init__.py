"""The service: `api` is HTTP, `service` takes orders, `store` keeps them, workers do `tasks`; and a page."""
