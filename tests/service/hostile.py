#!/usr/bin/env python3
"""Hostile input, generated from /openapi.json: whatever is sent, by an administrator or by nobody, the service answers it
with an error of its own, and goes on.

    hostile.py STRONGROOM [SEED]

No answer is a 5xx, except a 503 of what is really not there; nothing panics; memory stays bounded.
"""

import http.client
import json
import random
import socket
import time
import urllib.parse

from lab import Service, Vault, binary, check, main, number, say, seeded

GROUP = "srtest"
METHODS = ("GET", "PUT", "POST", "PATCH", "HEAD", "OPTIONS", "TRACE", "CONNECT", "BREW")
ROUNDS = number(4, 40)

NAMES = ["a;b", "a%b", "a%2fb", "..", ".", "%2e%2e", "a\\b", "%00", "ä", "日本語", "🙂", "a b", "a'b", "''", '"', "$filter",
         "x" * 300, "x" * 7000, "%", "%zz", "%f0%28%8c%28", "-", "'; DROP TABLE jobs --", "{group}", "null", "\u202ecba"]
VALUES = [None, True, -1, 0, 2**31, 2**63, 2**64, -(2**63) - 1, 1e308, 1.5, "", " ", "0", "x" * 100_000, "\x00", "\ud7ff", "🙂",
          "9999-99-99T99:99:99Z", "0000-01-01T00:00:00Z", "9999-12-31T23:59:59.9999999Z", "-262144-01-01T00:00:00Z",
          "../../etc/passwd", "/subscriptions/x", "file:///etc/passwd", "s3://a/b", [], {}, [[]], [None] * 1000,
          {"a": None}, {"properties": {}}, "$(reboot)", "`id`", "%s%n", "P9999Y", "Nowhere/Zone", "UTC\x00"]
FILTERS = ["", "'", "a eq", "eq eq eq", "a eq 'b' and", "(" * 40, ")" * 40, "a eq 'b' or " * 100, "not " * 50 + "a eq 'b'",
           "x" * 5000, "status eq 'Nope'", "startTime eq 'yesterday'", "startTime eq '9999-99-99 99:99:99 PM'",
           "backupManagementType eq null", "a eq 1e999", "a eq 9223372036854775808", "operation eq ''''", "\x01",
           "startDate eq '2026-01-01T00:00:00Z' and endDate eq '0001-01-01'", "a/any(b: b eq 1)", "contains(a,'b')"]
TOKENS = ["x", "-1", "0", "99999999999999999999", "AAAA", "%", "eyJhIjoxfQ", "' or 1=1 --"]


class Attack:
    def __init__(self, service, source):
        self.service, self.random = service, source
        self.connections = {}
        self.statuses = {}

    def send(self, who, method, path, raw=None, headers=None, allow=()):
        """One request, which must be answered, and not by a failure of the service's own."""
        connection = self.connections.get(who)
        if connection is None:
            connection = self.service.connection(20) if who == "administrator" else self.service.tls_connection(20)
            self.connections[who] = connection
        sent = {"content-type": "application/json"} | (headers or {})
        try:
            connection.putrequest(method, path, skip_accept_encoding=True)
            for name, value in sent.items():
                connection.putheader(name, value)
            if raw is not None and "content-length" not in sent:
                connection.putheader("content-length", str(len(raw)))
            connection.endheaders(raw)
            answer = connection.getresponse()
            text = answer.read()
        except (OSError, http.client.HTTPException) as error:
            # Whatever is refused, and however early: it is answered, and the answer can be read.
            check(False, "no answer to", who, method, path[:300], "with", len(raw or b""), "bytes and", sent, ":", repr(error))
        if answer.will_close:
            self.connections.pop(who).close()
        self.statuses[answer.status] = self.statuses.get(answer.status, 0) + 1
        shown = (who, method, path[:300], (raw or b"")[:300], "answered", answer.status, text[:600])
        check(answer.status < 500 or answer.status in (503, 501) or answer.status in allow, *shown)
        if who == "nobody":
            check(answer.status >= 400 or path.startswith(("/metadata", "/adfs", "/openapi", "/tenants"))
                  or "openid" in path, *shown)
        if answer.status >= 400 and text and method != "HEAD":
            try:
                error = json.loads(text)
            except ValueError:
                raise SystemExit(f"FAILED: not JSON: {shown}") from None
            check(isinstance(error, dict) and "error" in error, *shown)
        return answer.status

    def name(self, usual):
        return usual if self.random.random() < 0.6 else urllib.parse.quote(self.random.choice(NAMES), safe="%")

    def value(self, schema, schemas, depth=0):
        """Something that looks like what the schema wants, with something else in some places."""
        if self.random.random() < 0.12 or depth > 8:
            return self.random.choice(VALUES)
        if "$ref" in schema:
            return self.value(schemas[schema["$ref"].rsplit("/", 1)[-1]], schemas, depth)
        if "enum" in schema:
            return self.random.choice(schema["enum"])
        kind = schema.get("type", "object")
        if kind == "object":
            made = {name: self.value(inner, schemas, depth + 1) for name, inner in schema.get("properties", {}).items()
                    if self.random.random() < 0.9}
            if self.random.random() < 0.1:
                made[self.random.choice(NAMES)] = self.random.choice(VALUES)
            return made
        if kind == "array":
            return [self.value(schema.get("items", {}), schemas, depth + 1) for _ in range(self.random.randrange(4))]
        if kind == "integer":
            return self.random.choice([0, 1, 7, 30, 180, 10**6, -1])
        return {"boolean": True}.get(kind) or self.random.choice(
            ["local", "UTC", "2026-11-21T20:30:00Z", "Monday", "policy", "Microsoft.Compute/virtualMachines"])


def prepare(service):
    """What the paths name is there; deleted by what came before, it is made again."""
    service.call("PUT", f"/subscriptions/{service.subscription}/resourceGroups/{GROUP}", {"location": "local"})
    vault = Vault(service, GROUP, "target")
    return vault if service.request("GET", vault.path).status == 200 else vault.create()


def by_schema(attack, document, values):
    schemas = document["components"]["schemas"]
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if method == "parameters":
                continue
            prepare(attack.service)
            for round_ in range(ROUNDS):
                target = path
                for part in operation.get("parameters", []):
                    if part.get("in") == "path":
                        target = target.replace("{" + part["name"] + "}", attack.name(values.get(part["name"], "none")))
                query = ["api-version=2026-01-01"] if attack.random.random() < 0.95 else ["api-version=yesterday"]
                if attack.random.random() < 0.5:
                    query.append("$filter=" + urllib.parse.quote(attack.random.choice(FILTERS)))
                if attack.random.random() < 0.3:
                    query.append("$top=" + attack.random.choice(["0", "-1", "1001", "x", "1", "99999999999"]))
                if attack.random.random() < 0.3:
                    query.append("$skipToken=" + urllib.parse.quote(attack.random.choice(TOKENS)))
                content = operation.get("requestBody", {}).get("content", {})
                schema = next((c["schema"] for c in content.values() if "schema" in c), {"type": "object"})
                raw = None
                if method in ("put", "post", "patch") or attack.random.random() < 0.1:
                    raw = json.dumps(attack.value(schema, schemas)).encode()
                    if attack.random.random() < 0.08:
                        raw = attack.random.choice([b"", b"{", b"\xff\xfe", b"[" * 200, b"nul", raw[:-1], raw + raw])
                url = f"{target}?{'&'.join(query)}"
                attack.send("administrator", method.upper(), url, raw)
                if round_ % 4 == 0:
                    attack.send("nobody", method.upper(), url, raw)


def by_hand(attack, vault):
    base = vault.path
    say("paths")
    for path in ("/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "//", "/", "/subscriptions/..%2f..", "/%5c..%5c",
                 base + "/..", base + "/%2e%2e/x", base + "%00", base + "/backupJobs/" + "a" * 7900, "/" + "a/" * 2000,
                 "/" + "%41" * 2000, "/" + "x" * 9000, base + "?api-version=2026-01-01&api-version=2025-01-01",
                 base + "?%24filter=%zz&api-version=2026-01-01", base + "?" + "a=b&" * 1500):
        for who in ("administrator", "nobody"):
            for method in ("GET", "PUT", "DELETE"):
                status = attack.send(who, method, path, b"{}" if method == "PUT" else None)
                check(status is None or status >= 400, who, method, path[:100], status)
    say("methods")
    for method in METHODS:
        attack.send("administrator", method, base + "?api-version=2026-01-01", None, allow=(501,))
    say("bodies")
    url = f"{base}/backupPolicies/deep?api-version=2026-01-01"
    deep = lambda n: b'{"properties":' + b'{"a":' * n + b"1" + b"}" * n + b"}"
    bodies = {"deep": deep(100_000), "deep arrays": b"[" * 1_000_000, "wide": b'{"a":[' + b"1," * 1_000_000 + b"1]}",
              "many keys": json.dumps({str(n): n for n in range(100_000)}).encode(), "twice": b'{"properties":{},"properties":{}}',
              "too large": b'"' + b"x" * (5 << 20) + b'"', "numbers": b'{"properties":{"a":' + b"9" * 100_000 + b"}}",
              "surrogates": b'{"properties":{"a":"\\ud800"}}', "not UTF-8": b'{"properties":"\xff"}', "BOM": b"\xef\xbb\xbf{}"}
    for what, raw in bodies.items():
        for who in ("administrator", "nobody"):
            status = attack.send(who, "PUT", url, raw)
            check(400 <= status < 500, what, who, status)
    for connection in attack.connections.values():
        connection.close()
    attack.connections.clear()
    status = attack.send("administrator", "PUT", url, b"<a/>", {"content-type": "text/xml"})
    check(status in (400, 415), "XML is answered", status)
    for headers in ({"content-length": "-1"}, {"content-length": "99999999999999"}, {"transfer-encoding": "gzip"},
                    {"x-huge": "x" * 20_000}, {f"x-{n}": "y" for n in range(100)}, {"expect": "200-maybe"},
                    {"authorization": "Bearer " + "x" * 9000}, {"authorization": "Basic eDp5"}, {"authorization": "Bearer"},
                    {"x-ms-correlation-request-id": "'; --"}, {"accept-language": "\u00ff" * 100}):
        attack.send("administrator", "GET", base + "?api-version=2026-01-01", None, headers)
        attack.connections.pop("administrator", None)
    say("half requests")
    for raw in (b"", b"GET", b"GET / HTTP/1.1\r\n", b"\x16\x03\x01\x02\x00", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00" * 64,
                b"GET / HTTP/9.9\r\n\r\n", b"GET  / HTTP/1.1\r\nhost:\r\n\r\n", b"\x00" * 4096, b"A" * 100_000,
                b"GET / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nGET"):
        with socket.socket(socket.AF_UNIX) as plain:
            plain.settimeout(2)
            plain.connect(str(attack.service.data / "strongroom.sock"))
            try:
                plain.sendall(raw)
                plain.shutdown(socket.SHUT_WR)
                answer = plain.recv(4096)
            except OSError:
                answer = b""
            check(not answer.startswith(b"HTTP/1.1 5") and not answer.startswith(b"HTTP/1.1 2"), raw[:60], answer[:200])


def names(attack, service, vault):
    """Names with special characters: made, shown, listed under their very name and deleted; or refused."""
    quote = lambda name: urllib.parse.quote(name, safe="")
    groups = f"/subscriptions/{service.subscription}/resourceGroups"
    policy = service.get(f"{vault.path}/backupPolicies/DefaultPolicy")["properties"]
    spaces = {
        "group": (groups, {"location": "local"}),
        "vault": (f"{groups}/{GROUP}/providers/Microsoft.RecoveryServices/vaults",
                  {"location": "local", "sku": {"name": "Standard"}, "properties": {}}),
        "policy": (f"{vault.path}/backupPolicies", {"properties": policy}),
    }
    candidates = ["a;b", "a%b", "a%3bb", "a(b)", "a.b", "a_b", "-abc", "abc-", "Größe", "日本語", "🙂🙂", "a'b", 'a"b', "a b", "a&b",
                  "a+b", "a#b", "a?b", "a=b", "<a>", "a,b", "A" * 50, "abc\u0301", "\u202eabc", "a\tb", "..a", "a..", "con"]
    for what, (place, sent) in spaces.items():
        made, refused = [], 0
        for name in candidates:
            answer = service.request("PUT", f"{place}/{quote(name)}", sent)
            check(answer.status in (200, 201, 202) or 400 <= answer.status < 500 and answer.code, what, name, answer)
            if answer.status >= 400:
                refused += 1
                check(service.request("GET", f"{place}/{quote(name)}").status >= 400, what, name, "was refused, and is there")
                continue
            made.append(name)
            shown = service.get(f"{place}/{quote(name)}")
            check(shown["name"] == name, what, name, "is shown as", shown["name"])
            # The id that it shows leads to it.
            check(service.get(urllib.parse.quote(shown["id"], safe="/"))["name"] == name, what, name, shown["id"])
        listed = [one["name"] for one in service.list(place)]
        check(all(listed.count(name) == 1 for name in made), what, made, listed)
        for name in made:
            service.call("DELETE", f"{place}/{quote(name)}")
            check(service.request("GET", f"{place}/{quote(name)}").status == 404, what, name, "is still there")
        check(made, what, "no name was taken at all")
        say(f"{what}: made and deleted {made}; {refused} refused")


def body(directory):
    seed = seeded(2)
    service = Service(binary(), directory / "data", "hosts = []\n").start()
    vault = prepare(service)
    attack = Attack(service, random.Random(seed))
    names(attack, service, vault)
    by_hand(attack, vault)
    values = {"subscription": service.subscription, "group": GROUP, "vault": "target", "policy": "DefaultPolicy",
              "fabric": "Azure", "container": f"IaasVMContainer;iaasvmcontainerv2;{GROUP};vm", "location": "local",
              "item": f"VM;iaasvmcontainerv2;{GROUP};vm", "machine": "vm", "provider": "Microsoft.Compute", "tenant": "adfs"}
    document = service.get("/openapi.json", version=None)
    for connection in attack.connections.values():
        connection.close()
    attack.connections.clear()
    began = time.monotonic()
    by_schema(attack, document, values)
    asked = sum(attack.statuses.values())
    say(f"{asked} requests, {asked / (time.monotonic() - began):.0f} a second; answers: "
        f"{dict(sorted(attack.statuses.items(), key=str))}")
    # It still does its work.
    check(service.get(f"/subscriptions/{service.subscription}/resourceGroups")["value"])
    service.stays_small()
    service.stop()
    check(not service.panics(), service.panics()[:5])


main(body, "hostile")
