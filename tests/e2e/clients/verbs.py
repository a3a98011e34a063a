"""What the Python clients share: arguments, printing and checks (see README.md for the verbs)."""
import json
import sys
import threading
import time

DEADLINE_S = 90


PRINTING = threading.Lock()


def emit(**fields):
    with PRINTING:
        print(json.dumps(fields), flush=True)


def emit_record(partition, offset, key, value, **more):
    emit(partition=partition, offset=offset, key=(key or b"").decode(), value=(value or b"").decode(), **more)


def lines():
    """(key, value) of each `key<TAB>value` line of standard input."""
    for line in sys.stdin.buffer.read().decode().splitlines():
        key, _, value = line.partition("\t")
        yield key.encode(), value.encode()


def check(condition, what, seen=None):
    if not condition:
        raise AssertionError(f"{what}: {seen!r}")


def until(condition, what):
    """Waits for a condition that another process brings about."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        check(time.monotonic() < deadline, f"no {what} in {DEADLINE_S} s")
        time.sleep(0.02)


def main(produce, consume, group, admin, rebalance=None):
    verb, brokers, topic, *rest = sys.argv[1:]
    if verb == "produce":
        produce(brokers, topic, rest[0])
    elif verb == "admin":
        admin(brokers, topic)
        emit(ok=True)
    else:
        {"consume": consume, "group": group, "rebalance": rebalance}[verb](brokers, topic, rest[0], int(rest[1]))
