#!/usr/bin/env python3
"""Makes `definitions.json.gz`, the facts of the Kubernetes 1.37 schema that the API needs.

    pip download --no-deps kubernetes-validate==1.37.0     # Apache-2.0
    ./make.py kubernetes_validate-1.37.0-py3-none-any.whl

Kept are names, types, formats, what is required and the marks on lists, maps and patches. Left out
are the descriptions, which are prose, and everything JSON Schema adds for validators. Each
definition is a map of fields; each field is a list `[type, marks]` in the shorthand below:

    s string   b boolean   i integer   n number   q quantity   x integer or string   * anything
    t time   u time with microseconds   y bytes as base64   @name another definition
    [T] list of T   {T} map of T
"""
import gzip
import json
import sys
import zipfile

MEMBER = "kubernetes_validate/kubernetes-json-schema/v1.37.0-local/_definitions.json"
SPECIAL = {
    "io.k8s.apimachinery.pkg.api.resource.Quantity": "q",
    "io.k8s.apimachinery.pkg.util.intstr.IntOrString": "x",
    "io.k8s.apimachinery.pkg.apis.meta.v1.Time": "t",
    "io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime": "u",
}
MARKS = {
    "x-kubernetes-patch-strategy": "ps",
    "x-kubernetes-patch-merge-key": "pk",
    "x-kubernetes-list-type": "lt",
    "x-kubernetes-list-map-keys": "lk",
    "x-kubernetes-map-type": "mt",
}


def shorthand(schema):
    if "$ref" in schema:
        name = schema["$ref"].removeprefix("#/$defs/")
        return SPECIAL.get(name, "@" + name)
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = next(one for one in kind if one != "null")
    if kind == "array":
        return "[" + shorthand(schema["items"]) + "]"
    if kind == "object" and "additionalProperties" in schema:
        return "{" + shorthand(schema["additionalProperties"]) + "}"
    form = schema.get("format")
    if kind == "string" and form == "byte":
        return "y"
    if kind == "integer" and form == "int32":
        return "i32"
    return {"string": "s", "boolean": "b", "integer": "i", "number": "n"}.get(kind, "*")


def field(schema):
    marks = {short: schema[long] for long, short in MARKS.items() if long in schema}
    return [shorthand(schema), marks] if marks else [shorthand(schema)]


def definition(schema):
    made = {}
    if "properties" in schema:
        fields = {name: field(one) for name, one in schema["properties"].items()}
        made["f"] = dict(sorted(fields.items()))
    elif schema.get("type") not in (None, "object", ["object", "null"]):
        made["s"] = shorthand(schema)
    if schema.get("required"):
        made["r"] = sorted(schema["required"])
    if "x-kubernetes-map-type" in schema:
        made["mt"] = schema["x-kubernetes-map-type"]
    kinds = schema.get("x-kubernetes-group-version-kind", [])
    if kinds:
        made["k"] = [[one["group"], one["version"], one["kind"]] for one in kinds]
    return made


def main():
    with zipfile.ZipFile(sys.argv[1]) as wheel:
        source = json.loads(wheel.read(MEMBER))["$defs"]
    made = {name: definition(one) for name, one in sorted(source.items()) if name not in SPECIAL}
    text = json.dumps(made, separators=(",", ":"), sort_keys=True).encode()
    with open("definitions.json.gz", "wb") as out:
        # No time stamp, so that the same input makes the same file.
        out.write(gzip.compress(text, 9, mtime=0))
    print(f"{len(made)} definitions, {len(text)} bytes")


main()
