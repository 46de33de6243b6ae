import io
import json

from fdk import response


def handler(ctx, data: io.BytesIO = None):
    name = "world"
    try:
        name = json.loads(data.getvalue()).get("name") or name
    except (AttributeError, ValueError):
        pass
    return response.Response(
        ctx,
        response_data=json.dumps({"message": f"Hello {name}"}),
        headers={"Content-Type": "application/json"},
    )
