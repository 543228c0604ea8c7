"""What KubeRay 1.7 accepts of the fields that we use, in our words: a JSON schema that refuses every other field.

The API server drops a field that it does not know without a word, so a misspelt `backoffLimt` costs a night. Names,
types and allowed values are facts from the custom resource definitions of ray.io/v1 and from what the operator itself
refuses when it admits an object; Kubernetes' own pod fields are listed as far as we use them.
"""

from collections.abc import Mapping
from typing import Any

Schema = dict[str, Any]

STRING: Schema = {"type": "string", "minLength": 1}
BOOLEAN: Schema = {"type": "boolean"}
COUNT: Schema = {"type": "integer", "minimum": 0}
POSITIVE: Schema = {"type": "integer", "minimum": 1}
QUANTITY: Schema = {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?(m|[KMGT]i?)?$"}
TEXTS: Schema = {"type": "object", "additionalProperties": {"type": "string"}}
"""A map of strings: an unquoted number or boolean in YAML is refused, as the API server refuses it."""


def choice(*values: str) -> Schema:
    """One of these words."""
    return {"enum": list(values)}


def items(item: Schema) -> Schema:
    """A list that is not empty."""
    return {"type": "array", "items": item, "minItems": 1}


def record(fields: Mapping[str, Schema], required: str = "", **rules: Any) -> Schema:
    """An object with these fields and no others; `required` names those that must be there, between spaces."""
    return {
        "type": "object",
        "properties": dict(fields),
        "required": required.split(),
        "additionalProperties": False,
        **rules,
    }


CONTAINER_SECURITY = record(
    {"allowPrivilegeEscalation": BOOLEAN, "capabilities": record({"drop": items(STRING)})},
    "allowPrivilegeEscalation capabilities",
)
POD_SECURITY = record(
    {
        "runAsNonRoot": {"const": True},
        "runAsUser": POSITIVE,
        "runAsGroup": POSITIVE,
        "fsGroup": POSITIVE,
        "seccompProfile": record({"type": choice("RuntimeDefault")}, "type"),
    },
    "runAsNonRoot runAsUser seccompProfile",
)
RESOURCES = record(
    {name: {"type": "object", "additionalProperties": QUANTITY} for name in ("requests", "limits")}, "requests limits"
)
CONTAINER = record(
    {
        "name": STRING,
        "image": STRING,
        "imagePullPolicy": choice("IfNotPresent", "Always", "Never"),
        "securityContext": CONTAINER_SECURITY,
        "ports": items(record({"name": STRING, "containerPort": POSITIVE}, "name containerPort")),
        "resources": RESOURCES,
        "volumeMounts": items(record({"name": STRING, "mountPath": STRING}, "name mountPath")),
    },
    "name image resources securityContext",
)
VOLUME = record(
    {"name": STRING, "emptyDir": record({"medium": choice("Memory"), "sizeLimit": QUANTITY}, "sizeLimit")},
    "name emptyDir",
)
TOLERATION = record(
    {
        "key": STRING,
        "operator": choice("Exists", "Equal"),
        "value": STRING,
        "effect": choice("NoSchedule", "PreferNoSchedule", "NoExecute"),
    }
)
POD = record(
    {
        "serviceAccountName": STRING,
        "automountServiceAccountToken": BOOLEAN,
        "terminationGracePeriodSeconds": COUNT,
        "restartPolicy": choice("Never"),  # with autoscaler v2 KubeRay admits Never or nothing
        "securityContext": POD_SECURITY,
        "tolerations": items(TOLERATION),
        "containers": items(CONTAINER),
        "volumes": items(VOLUME),
    },
    "containers securityContext",
)
TEMPLATE = record({"metadata": record({"annotations": TEXTS, "labels": TEXTS}), "spec": POD}, "spec")

WORKER_GROUP = record(
    {
        "groupName": STRING,
        "replicas": COUNT,
        "minReplicas": COUNT,
        "maxReplicas": COUNT,
        "numOfHosts": POSITIVE,
        "idleTimeoutSeconds": COUNT,
        "rayStartParams": TEXTS,
        "template": TEMPLATE,
    },
    "groupName minReplicas maxReplicas template",
)
AUTOSCALER = record(
    {
        "version": choice("v1", "v2"),
        "upscalingMode": choice("Default", "Aggressive", "Conservative"),
        "idleTimeoutSeconds": COUNT,
        "imagePullPolicy": choice("IfNotPresent", "Always", "Never"),
        "resources": RESOURCES,
        "securityContext": CONTAINER_SECURITY,
    }
)
CLUSTER_SPEC = record(
    {
        "rayVersion": {"type": "string", "pattern": r"^\d+\.\d+\.\d+$"},
        "authOptions": record({"mode": choice("disabled", "token"), "secretName": STRING}),
        "enableInTreeAutoscaling": BOOLEAN,
        "autoscalerOptions": AUTOSCALER,
        "suspend": BOOLEAN,
        "headGroupSpec": record({"rayStartParams": TEXTS, "template": TEMPLATE}, "template"),
        "workerGroupSpecs": items(WORKER_GROUP),
    },
    "headGroupSpec",
    # Token authentication came with Ray 2.52; the operator wants to be told the version before it turns it on.
    dependentRequired={"authOptions": ["rayVersion"], "autoscalerOptions": ["enableInTreeAutoscaling"]},
)

_SIDECAR = {"properties": {"submissionMode": {"const": "SidecarMode"}}, "required": ["submissionMode"]}
JOB_SPEC = record(
    {
        "entrypoint": STRING,
        "entrypointNumCpus": {"type": "number", "minimum": 0},
        "entrypointNumGpus": {"type": "number", "minimum": 0},
        "runtimeEnvYAML": STRING,
        "submissionMode": choice("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"),
        "submitterConfig": record({"backoffLimit": COUNT}),
        "submitterPodTemplate": TEMPLATE,
        "metadata": TEXTS,
        "backoffLimit": COUNT,
        "activeDeadlineSeconds": POSITIVE,
        "preRunningDeadlineSeconds": POSITIVE,
        "shutdownAfterJobFinishes": BOOLEAN,
        "ttlSecondsAfterFinished": COUNT,
        "deletionStrategy": {"type": "object"},
        "clusterSelector": TEXTS,
        "suspend": BOOLEAN,
        "rayClusterSpec": CLUSTER_SPEC,
    },
    "entrypoint",
    oneOf=[{"required": ["rayClusterSpec"]}, {"required": ["clusterSelector"]}],
    allOf=[
        # Two ways to clean up, of which the operator admits one.
        {"not": {"required": ["deletionStrategy", "ttlSecondsAfterFinished"]}},
        {"not": {"required": ["deletionStrategy", "shutdownAfterJobFinishes"]}},
        # A cluster that was there before is not made anew for another try.
        {"not": {"required": ["clusterSelector", "backoffLimit"]}},
        {"if": _SIDECAR, "then": {"not": {"required": ["submitterPodTemplate"]}}},
        {"if": _SIDECAR, "then": {"not": {"required": ["submitterConfig"]}}},
        {
            "if": {"required": ["ttlSecondsAfterFinished"]},
            "then": {
                "properties": {"shutdownAfterJobFinishes": {"const": True}},
                "required": ["shutdownAfterJobFinishes"],
            },
        },
    ],
)
CRON_SPEC = record(
    {
        "schedule": {"type": "string", "pattern": r"^\S+ \S+ \S+ \S+ \S+$", "not": {"pattern": "TZ"}},
        "timeZone": STRING,
        "suspend": BOOLEAN,
        "jobTemplate": JOB_SPEC,
    },
    "schedule jobTemplate",
)


def resource(kind: str, longest_name: int, spec: Schema) -> Schema:
    """One object of ray.io/v1; the operator refuses longer names, since it makes others from them."""
    name = {"type": "string", "pattern": "^[a-z]([-a-z0-9]*[a-z0-9])?$", "maxLength": longest_name}
    fields = {
        "apiVersion": {"const": "ray.io/v1"},
        "kind": {"const": kind},
        "metadata": record({"name": name, "namespace": STRING, "labels": TEXTS, "annotations": TEXTS}, "name"),
        "spec": spec,
    }
    return record(fields, "apiVersion kind metadata spec")


RESOURCE_SCHEMAS = {
    "raycluster": resource("RayCluster", 53, CLUSTER_SPEC),
    "rayjob": resource("RayJob", 47, JOB_SPEC),
    "raycronjob": resource("RayCronJob", 36, CRON_SPEC),
}
"""By the name of the file in cluster/."""
