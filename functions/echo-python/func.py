"""Does what the request's field `X-Do` says, through the official FDK.

hob's tests deploy it. Without `X-Do` the body comes back.
"""

import io
import json
import os
import sys
import time
import uuid

from fdk import response

# Differs for each started process; `COUNT` counts its calls.
INSTANCE = uuid.uuid4().hex
COUNT = 0


def context(ctx, body):
    """What the FDK tells of a call."""
    with open("/tmp/written", "w") as file:
        file.write("x")
    return {
        "app_id": ctx.AppID(), "app_name": ctx.AppName(), "fn_id": ctx.FnID(), "fn_name": ctx.FnName(),
        "call_id": ctx.CallID(), "deadline": ctx.Deadline(), "format": ctx.Format(),
        "method": ctx.Method(), "url": ctx.RequestURL(),
        "headers": dict(ctx.Headers()), "http_headers": dict(ctx.HTTPHeaders()), "config": dict(ctx.Config()),
        "now": time.time(), "uid": os.getuid(), "folder": os.getcwd(), "home": os.path.expanduser("~"),
        "body": body.decode("utf-8", "replace"),
    }


def handler(ctx, data: io.BytesIO = None):
    global COUNT
    COUNT += 1
    body = data.getvalue()
    verb, _, argument = str(ctx.Headers().get("x-do") or "echo").partition(":")
    fields = {"X-Instance": INSTANCE, "X-Count": str(COUNT)}
    status, answer = 200, body
    if verb == "echo":
        fields["Content-Type"] = str(ctx.Headers().get("content-type") or "application/octet-stream")
    elif verb == "hello":
        fields["Content-Type"] = "application/json"
        answer = json.dumps({"message": "Hello " + json.loads(body)["name"]})
    elif verb == "context":
        fields["Content-Type"] = "application/json"
        answer = json.dumps(context(ctx, body))
    elif verb == "raise":
        raise ValueError(argument)
    elif verb == "raise-timeout":
        raise TimeoutError(argument)
    elif verb == "sleep":
        time.sleep(float(argument))
    elif verb == "say":
        print(argument)
        print(argument + " on stderr", file=sys.stderr)
    elif verb == "status":
        status = int(argument)
    elif verb == "fields":
        fields.update({"X-One": "1", "X-Many": ["a", "b"], "Location": "/elsewhere", "Content-Type": "text/x-mine"})
    elif verb == "size":
        answer = bytes(n % 251 for n in range(int(argument)))
    elif verb == "memory":
        answer = str(len(bytearray(int(argument) << 20)))
    elif verb == "exit":
        os._exit(int(argument))
    return response.Response(ctx, response_data=answer, headers=fields, status_code=status)
