"""The web page: `page` is what is seen, `studio` who works, `worker` its processes, `views` their words."""
