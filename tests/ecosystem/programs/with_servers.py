"""uvicorn and hypercorn serve this with several workers."""

import os
import sys
from typing import Any


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answer every request with the worker's parent and what its multiprocessing is."""
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return
    text = f"{os.getppid()} {sys.modules['multiprocessing'].__name__}".encode()
    headers = [(b"content-length", str(len(text)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": text})
