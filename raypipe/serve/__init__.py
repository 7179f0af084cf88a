"""An atlas over HTTP: `raypipe serve`, or `create_app` for a server of one's own.

settings    what it can be told                     guard     what every request passes: tokens, limits, log
app         the ASGI application                    routes    /v1; requests, answers: bodies in and out
running     as one process, by uvicorn              service   limits, and who does what in which thread
cluster     as replicas on Ray Serve, with ray_app  batching  work of many requests as one; hits: searches so
documented  what OpenAPI says; openapi writes it    live      the atlas as it stands now; faults: what goes wrong
page        the page at /                           logs, metrics, tokens
"""
