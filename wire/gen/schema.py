#!/usr/bin/env python3
"""Writes wire/src/codec/schema_table/{requests,responses}.rs from Kafka's message definitions.

The definitions are the JSON files `common/message/*.json` inside the kafka-clients jar (Apache-2.0). Only what a reader
of bytes needs is kept: names, types and version ranges. To serve another API, add its name to APIS and run

    mvn dependency:copy -Dartifact=org.apache.kafka:kafka-clients:4.1.0 -DoutputDirectory=DIR
    python3 wire/gen/schema.py DIR/kafka-clients-4.1.0.jar DIR/kafka-clients-4.3.1.jar wire/src/codec/schema_table

ShareFetch and ShareAcknowledge are of a later version, which `wire/src/codec/share.rs` makes of the crate's: their
definitions come from a second jar, kafka-clients-4.3.1.jar, named before the folder.

The others must be those that the kafka-protocol crate was generated from (4.1 for its version 0.18): the walker
guards that crate's decoders. A test decodes messages of every version with both.
"""

import json
import re
import sys
import zipfile

APIS = [
    "Produce", "Fetch", "ListOffsets", "Metadata", "OffsetCommit", "OffsetFetch", "FindCoordinator", "JoinGroup",
    "Heartbeat", "LeaveGroup", "SyncGroup", "DescribeGroups", "ListGroups", "ApiVersions", "CreateTopics",
    "DeleteTopics", "DeleteRecords", "InitProducerId", "OffsetForLeaderEpoch", "AddPartitionsToTxn", "AddOffsetsToTxn",
    "EndTxn", "TxnOffsetCommit", "DescribeTransactions", "ListTransactions", "DescribeConfigs", "AlterConfigs",
    "DescribeLogDirs", "CreatePartitions", "DeleteGroups", "ElectLeaders", "IncrementalAlterConfigs",
    "AlterPartitionReassignments", "ListPartitionReassignments", "OffsetDelete", "DescribeQuorum", "DescribeCluster",
    "UpdateFeatures", "UnregisterBroker", "ConsumerGroupHeartbeat", "ConsumerGroupDescribe", "ListConfigResources",
    "DescribeTopicPartitions", "AddRaftVoter", "RemoveRaftVoter", "WriteTxnMarkers", "DescribeProducers", "SaslHandshake", "SaslAuthenticate", "DescribeAcls", "CreateAcls", "DeleteAcls",
    "DescribeClientQuotas", "AlterClientQuotas", "DescribeUserScramCredentials", "AlterUserScramCredentials",
    "ShareGroupHeartbeat", "ShareGroupDescribe", "ShareFetch", "ShareAcknowledge", "DescribeShareGroupOffsets",
    "AlterShareGroupOffsets", "DeleteShareGroupOffsets",
]

NEWER = ["ShareFetch", "ShareAcknowledge"]

FIXED = {"bool": 1, "int8": 1, "int16": 2, "uint16": 2, "int32": 4, "uint32": 4, "int64": 8, "float64": 8, "uuid": 16}
OPEN = 32767


def versions(text):
    """(first, last) of "0+", "3-7", "4" or "none"."""
    if text is None or text == "none":
        return (OPEN, -1)
    if text.endswith("+"):
        return (int(text[:-1]), OPEN)
    first, _, last = text.partition("-")
    return (int(first), int(last or first))


def snake(name):
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def kind(text, field, common, indent):
    if text.startswith("[]"):
        return f"Kind::Array(&{kind(text[2:], field, common, indent)})"
    if text in FIXED:
        return f"Kind::Fixed({FIXED[text]})"
    if text in ("string", "bytes", "records"):
        return {"string": "Kind::String", "bytes": "Kind::Bytes", "records": "Kind::Records"}[text]
    inner = field.get("fields") or common[text]
    return f"Kind::Struct({struct(inner, common, indent + 1)})"


def struct(fields, common, indent):
    pad = "    " * (indent + 1)
    lines = [pad + one(field, common, indent) + "," for field in fields]
    return "&[\n" + "\n".join(lines) + "\n" + "    " * indent + "]"


def one(field, common, indent):
    since, until = versions(field["versions"])
    text = f'field("{snake(field["name"])}", {kind(field["type"], field, common, indent)}, {since}, {until})'
    if "nullableVersions" in field:
        first, last = versions(field["nullableVersions"])
        text += f".nullable({first}, {last})"
    if "tag" in field:
        first, last = versions(field["taggedVersions"])
        text += f".tagged({field['tag']}, {first}, {last})"
    return text


def message(jar, name):
    raw = jar.read(f"common/message/{name}.json").decode()
    body = json.loads("\n".join(line for line in raw.splitlines() if not line.strip().startswith("//")))
    common = {c["name"]: c["fields"] for c in body.get("commonStructs", [])}
    first, last = versions(body["validVersions"])
    flexible, _ = versions(body["flexibleVersions"])
    return body["apiKey"], (
        f"    Message {{\n        name: \"{name}\",\n        api_key: {body['apiKey']},\n"
        f"        min_version: {first},\n        max_version: {last},\n        flexible_since: {flexible},\n"
        f"        fields: {struct(body['fields'], common, 2)},\n    }},\n"
    )


def main():
    jar, newer = zipfile.ZipFile(sys.argv[1]), zipfile.ZipFile(sys.argv[2])
    version = re.search(r"kafka-clients-([0-9.]+)\.jar", sys.argv[1]).group(1)
    for direction in ("Request", "Response"):
        table = sorted(message(newer if api in NEWER else jar, api + direction) for api in APIS)
        with open(f"{sys.argv[3]}/{direction.lower()}s.rs", "w") as out:
            out.write(
                f"//! @generated by wire/gen/schema.py from the message definitions of\n"
                f"//! org.apache.kafka:kafka-clients:{version} (Apache-2.0). Do not edit.\n\n"
                f"use super::super::schema::{{Kind, Message, field}};\n\n"
                f"/// Sorted by API key.\n"
                f"pub(in super::super) static {direction.upper()}S: &[Message] = &[\n"
            )
            out.write("".join(text for _, text in table) + "];\n")


main()
