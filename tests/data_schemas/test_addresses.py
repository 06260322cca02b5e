"""What of an address may be shown, over the whole class of passwords and places they stand in."""

import json
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.data_schemas.addresses import problem_of, redact, redacted
from recsys.data_schemas.config import parse_config
from recsys.data_schemas.errors import RecsysError, UsageError

PLANTED = "Pl4nted"
SCHEMES = [
    "postgresql",
    "postgres",
    "postgresql+psycopg",
    "mysql",
    "snowflake",
    "https",
    "s3",
    "redis",
]
# All that a URL may hold and quotes do not end; what else there is, is written %xx.
RAW = st.text("abcXYZ019-._~!$&()*+,;=:@/?#%[]|^{}\\éж", max_size=8)
ANY = st.text(st.characters(codec="utf-8"), max_size=8)
AROUND = ["{}", "cannot reach {}: refused", "'{}'", '{{"uri": "{}"}}', "a {} and\n{} again", "<{}>"]
NAMES = ["password", "sslpassword", "PASSWORD", "token", "access_token", "api_key", "X-Amz-Signature",
         "aws_secret_access_key", "sig", "key", "pwd"]  # fmt: skip


@given(st.sampled_from(SCHEMES), RAW, RAW, st.sampled_from(AROUND))
def test_no_raw_password_is_shown(scheme, before, after, around):
    address = f"{scheme}://shop:{before}{PLANTED}{after}@db.example:5432/log?sslmode=require"
    assert PLANTED not in redacted(around.format(address, address))


@given(st.sampled_from(SCHEMES), ANY, ANY, st.sampled_from(AROUND))
def test_no_escaped_password_is_shown(scheme, before, after, around):
    password = quote(before, safe="") + PLANTED + quote(after, safe="")
    address = f"{scheme}://shop:{password}@db.example/log"
    assert problem_of(address) is None
    text = redacted(around.format(address, address))
    assert PLANTED not in text
    assert "db.example/log" in text, "what is no secret stays"


@given(st.sampled_from(NAMES), ANY, st.booleans())
def test_no_secret_parameter_is_shown(name, value, first):
    query = f"{name}={PLANTED}{quote(value, safe='')}"
    query = f"{query}&mode=ro" if first else f"mode=ro&{query}"
    text = redacted(f"found: s3://bucket/path?{query}")
    assert PLANTED not in text
    assert "s3://bucket/path?" in text
    assert "mode=ro" in text


@pytest.mark.parametrize(
    "text",
    [
        f"host=db user=shop password={PLANTED} sslmode=require",
        f"host=db password='a b {PLANTED}' sslmode=require",
        f"connect(host='db', password = \"{PLANTED}\")",
        str({"uri": {"user": "shop", "password": PLANTED}}),
        json.dumps({"access_token": f'a"{PLANTED}'}),
        f"https://{PLANTED}@sentry.example/1",
        f"shop:{PLANTED}@db/log, without a scheme",
    ],
)
def test_other_ways_to_write_a_secret(text):
    assert PLANTED not in redacted(text)


@pytest.mark.parametrize(
    "text",
    [
        "models:/shop@champion",
        "file:///srv/me@home/work",
        "sqlite:////srv/me@home/mlflow.db",
        "postgresql://shop@db:5432/log",
        "postgres:///log",
        "{title}. {tags}. token: {category}",
        "encoder.max_tokens=96, step_tokens: 8192",
        "2026-01-01T00:00:00Z drain: 12:30:01",
        "mail ann@example.org",
        "key=3 of 4",
    ],
)
def test_what_is_no_secret_stays(text):
    assert redacted(text) == text


def test_values_are_redacted_throughout():
    url = f"postgresql://a:{PLANTED}@b/c"
    found = redact({url: [url, (1, url)], "n": 2.5, "none": None})
    assert PLANTED not in json.dumps(found)
    assert found["n"] == 2.5
    error = RecsysError("x", where=url, found=ValueError(url), expected={"a": url}, fix=url)
    facts = [error.where, error.found, error.expected, error.fix, error.render(), str(error)]
    assert PLANTED not in str(facts)
    assert RecsysError("x", found=3).found == 3


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://one:5432,two:5433/log",
        "postgresql://shop:p%40ss%2Fw%3Ard@one:5432,two/log?sslmode=require",
        "postgresql://[::1]:5432/log",
        "duckdb:///data/x.db?access_mode=read_only",
        "s3://bucket/folder@version",
        "https://hooks.example/services/T0/B0",
        "https://hooks.example:8443/users/ann%40home",
        "data.db",
    ],
)
def test_sound_addresses(address):
    assert problem_of(address) is None


@pytest.mark.parametrize("bad", ["p@ss", "p/ss", "12/ss", "p?ss", "p#ss", "p@s:s", "a:b/c"])
@pytest.mark.parametrize(
    ("section", "key"),
    [("serving", "log"), ("data", "connection"), ("tracking", "uri"), ("notify", "webhook")],
)
def test_a_password_that_would_be_read_as_a_host_is_refused(bad, section, key, tmp_path):
    password = bad.replace("s", PLANTED, 1) if "s" in bad else bad + PLANTED
    raw = {"data": {"items": "i", "events": "e"}}
    raw.setdefault(section, {})[key] = f"postgresql://shop:{password}@db/log"
    with pytest.raises(UsageError, match="%40") as caught:
        parse_config(raw, tmp_path)
    assert PLANTED not in caught.value.render()


@pytest.mark.parametrize("wrong", ["unknown", "list", "text", "mapping"])
def test_config_errors_echo_no_password(wrong, tmp_path):
    url = f"postgresql://shop:{PLANTED}{'x' * 300}@db/log"
    raw = {"data": {"items": "i", "events": "e"}}
    raw["serving"] = {
        "unknown": {f"log_of_{url}": 1},
        "list": {"log": [url]},
        "text": url,
        "mapping": {"log": {"url": url, "password": PLANTED}},
    }[wrong]
    with pytest.raises(UsageError) as caught:
        parse_config(raw, tmp_path)
    assert PLANTED not in caught.value.render()
