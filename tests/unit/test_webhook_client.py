"""How a webhook is signed, by the standard's own example, and which addresses are public."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from datetime import UTC, datetime

import pytest
import time_machine
from standardwebhooks import Webhook, WebhookVerificationError

from worker.webhooks.client import WebhookClient, is_public

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER = "whsec_" + base64.b64encode(b"x" * 32).decode()
NOTICE_ID = "msg_p5jXN8AQM9LWM0D4loKWxJek"
TARGET = "https://example.com:8443/webhooks?of=jobs"


def headers(body: str, *secrets: str) -> dict[str, str]:
    return dict(
        WebhookClient(secrets, allow_private=False)._request(TARGET, NOTICE_ID, body).headers
    )


def test_the_signature_is_that_of_the_standards_example() -> None:
    with time_machine.travel(datetime.fromtimestamp(1614265330, UTC), tick=False):
        given = headers('{"test": 2432232314}', SECRET)
    assert given["webhook-id"] == NOTICE_ID
    assert given["webhook-timestamp"] == "1614265330"
    assert given["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_the_signature_is_the_hmac_of_id_time_and_body_beyond_ascii_too() -> None:
    body = json.dumps({"metadata": "é “ \u2028"}, ensure_ascii=False)
    given = headers(body, SECRET)
    signed = f"{given['webhook-id']}.{given['webhook-timestamp']}.{body}".encode()
    key = base64.b64decode(SECRET.removeprefix("whsec_"))
    expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    assert given["webhook-signature"] == f"v1,{expected}"
    assert given["content-length"] == str(len(body.encode()))
    assert given["host"] == "example.com:8443"


def test_each_of_several_secrets_signs() -> None:
    given = headers("{}", OTHER, SECRET)
    for secret in (OTHER, SECRET):
        Webhook(secret).verify("{}", given)
    stranger = "whsec_" + base64.b64encode(b"y" * 32).decode()
    with pytest.raises(WebhookVerificationError):
        Webhook(stranger).verify("{}", given)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.255.255.254",
        "0.0.0.0",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "169.254.169.254",
        "192.0.2.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "fe80::1",
        "fe80::1%lo",
        "fc00::1",
        "fd12:3456::1",
        "ff02::1",
        "2001:db8::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
        "2002:7f00:1::",
        "2001:0:7f00:1::",
        "::127.0.0.1",
    ],
)
def test_an_address_that_is_not_globally_reachable_is_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "address", ["93.184.216.34", "8.8.8.8", "2606:4700:4700::1111", "::ffff:8.8.8.8"]
)
def test_a_globally_reachable_address_is_public(address: str) -> None:
    assert is_public(address)
