#!/usr/bin/env python3
"""Schemathesis against the service, by the service's own OpenAPI document: no 5xx, and every answer is as the document says.

    schema.py STRONGROOM SCHEMATHESIS [SEED]

Once with names of what is really there, so that requests reach the handlers, and once with whatever comes to its mind.
Bounded in time. What hostile.py sends beside this is worse than what a document can describe.
"""

import json
import subprocess
import sys
import time

from lab import Service, Vault, binary, check, main, number, say, seeded

GROUP = "srtest"
SECONDS = number((30, 10), (300, 180))
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


def drive(program, service, directory, what, seconds, seed, parameters, *options):
    config = directory / f"{what}.toml"
    # What is not here for want of a disk, a host or a network is a 503 with a reason, and the document's `default`.
    lines = ["[checks.not_a_server_error]", 'expected-statuses = ["2xx", "3xx", "4xx", "503"]', "[parameters]"]
    lines += [f"{json.dumps('path.' + name)} = {json.dumps(value)}" for name, value in parameters.items()]
    config.write_text("\n".join(lines) + "\n")
    url = (service.data / "url").read_text().strip()
    began = time.monotonic()
    done = subprocess.run(
        [program, "--config-file", config, "--no-color", "run", directory / "openapi.json", "--url", url,
         "--tls-verify", service.data / "tls" / "authority.pem", "--header", f"Authorization: Bearer {service.token}",
         "--checks", CHECKS, "--max-time", str(seconds), "--seed", str(seed), "--request-timeout", "30",
         "--suppress-health-check", "all", "--warnings", "off", "--continue-on-failure", "--no-shrink",
         "--output-truncate", "true", *options],
        capture_output=True, text=True, timeout=seconds * 4 + 60, cwd=directory, stdin=subprocess.DEVNULL)
    report = directory / f"{what}.log"
    report.write_text(done.stdout + done.stderr)
    tail = [line for line in done.stdout.splitlines() if line.strip()][-12:]
    say(f"{what}: {time.monotonic() - began:.0f} s, exit status {done.returncode}")
    print("\n".join(tail), flush=True)
    check(done.returncode == 0, what, "found something: see", report, "\n", done.stdout[-12_000:], done.stderr[-2000:])
    check("generated" in done.stdout or "passed" in done.stdout, what, "tested nothing:", done.stdout[-2000:])


def body(directory):
    program = sys.argv[2]
    seed = seeded(3)
    service = Service(binary(), directory / "data", "hosts = []\n").start()
    service.call("PUT", f"/subscriptions/{service.subscription}/resourceGroups/{GROUP}", {"location": "local"})
    Vault(service, GROUP, "target").create(soft_delete=True)
    document = service.get("/openapi.json", version=None)
    # Sign-in is slowed down for who fails at it, which is its job; auth.rs has its own tests.
    paths = {path: said for path, said in document["paths"].items() if "oauth2" not in path}
    (directory / "openapi.json").write_text(json.dumps(document | {"paths": paths}))
    service.token = service.sign_in("schema", "Owner")
    names = {"subscription": service.subscription, "group": GROUP, "vault": "target", "policy": "DefaultPolicy",
             "fabric": "Azure", "container": f"IaasVMContainer;iaasvmcontainerv2;{GROUP};vm", "location": "local",
             "item": f"VM;iaasvmcontainerv2;{GROUP};vm", "machine": "vm", "provider": "Microsoft.Compute",
             "tenant": "adfs"}
    # Deleting comes at the end: what is deleted tells no more.
    drive(program, service, directory, "names that are there", SECONDS[0], seed, names,
          "--exclude-method", "DELETE", "--phases", "coverage,fuzzing")
    drive(program, service, directory, "any names", SECONDS[1], seed, {}, "--phases", "fuzzing")
    service.stays_small()
    service.stop()
    check(not service.panics(), service.panics()[:5])


main(body, "schema")
