"""The official library for Python: the same as official.mjs."""

import json
import sys
from datetime import datetime, timezone

from standardwebhooks import Webhook, WebhookVerificationError

request = json.load(sys.stdin)
webhook = Webhook(request["secret"])
if request["do"] == "sign":
    at = datetime.fromtimestamp(request["timestamp"], timezone.utc)
    print(webhook.sign(request["id"], at, request["body"]))
else:
    headers = {
        "webhook-id": request["id"],
        "webhook-timestamp": str(request["timestamp"]),
        "webhook-signature": request["signature"],
    }
    try:
        webhook.verify(request["body"], headers)
        print("good")
    except WebhookVerificationError as error:
        print(type(error).__name__)
