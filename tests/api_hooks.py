"""What schemathesis may not send: a question without an end, and an order for a thousand workers."""

import re

import schemathesis

GOOD = re.compile(r"[1-9][0-9]{0,2}|10[01][0-9]|102[0-4]|[+-](0|[1-9][0-9]{0,8})")


@schemathesis.hook
def before_call(context, case, kwargs):
    query = case.query
    if isinstance(query, dict) and str(query.get("follow")).lower() == "true":
        query["follow"] = "false"
    body = case.body
    if case.operation.path == "/v1/scale" and isinstance(body, dict):
        wish = body.get("workers")
        # Good stays good and bad stays bad, but no other number gets through.
        if isinstance(wish, str) and any(letter.isdigit() for letter in wish):
            body["workers"] = "2" if GOOD.fullmatch(wish) else "0"
