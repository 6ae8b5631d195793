"""A model behind HTTP: requests as JSON, put together in batches, within limits; the champion is followed.

`service.Service` holds what is served, `app.make_app` makes the application of it, `server.Server` runs that.
"""
