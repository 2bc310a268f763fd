"""Classify the error messages of Google and Terraform, with a remedy for each kind."""

import re
from typing import Final

from vm_caller import Workspace

QUOTA_PAGE: Final = "https://console.cloud.google.com/iam-admin/quotas"
# kind: pattern of the messages; the first match counts
SIGNS: Final = {
    "locked": r"Error acquiring the state lock",
    "stockout": r"ZONE_RESOURCE_POOL_EXHAUSTED|does not have enough resources|is currently unavailable in the|STOCKOUT",
    "no_gpu_here": r"acceleratorTypes/\S+' (was not found|is not)|machineTypes/\S+' was not found|does not exist in zone",
    "quota": r"Quota '[A-Z0-9_]+' exceeded|quotaExceeded|QUOTA_EXCEEDED",
    "api": r"accessNotConfigured|SERVICE_DISABLED|API has not been used in project",
    "billing": r"BILLING_DISABLED|billing to be enabled|billing account .{0,80}(disabled|closed|not found)",
    "credentials": r"could not find default credentials|invalid_grant|Invalid JWT|invalid authentication credentials|"
    r"Reauthentication|unexpected end of JSON input|error unmarshalling credentials|No credentials loaded",
    "permission": r"Required '[\w.]+' permission|Permission '?[\w.]+'? denied|PERMISSION_DENIED|"
    r"forbidden|does not have permission",
    "taken": r"alreadyExists|already exists",
    "settings": r"Invalid value for variable|Invalid value for input variable",
    "provider": r"Failed to query available provider packages|Failed to install provider|could not connect to registry",
}
TRY_NEXT: Final = ("stockout", "no_gpu_here")
REMEDIES: Final = {
    "quota": "Your project may not have that many GPUs. Raise both quotas, the region's for this GPU kind and GPUS_ALL_REGIONS, "
    f"at {QUOTA_PAGE} (a new project has 0; Google answers within minutes to two days), or take a VM without a GPU: "
    "machine_type=e2-standard-4 gpu_type= gpu_count=0",
    "credentials": "Google refuses your credentials. Log in again: gcloud auth application-default login",
    "permission": "Your account lacks a right in this project: it needs roles/compute.admin, roles/iam.serviceAccountAdmin and "
    "roles/iam.serviceAccountUser. Or the project's ID is misspelt.",
    "api": "An API of the project is off: "
    "gcloud services enable compute.googleapis.com iam.googleapis.com cloudresourcemanager.googleapis.com",
    "billing": "The project has no billing account: link one at https://console.cloud.google.com/billing/projects",
    "taken": "Something of that name is there, and not in your record: a VM that you made from another machine, another user of "
    "your name (PNEUMONIA_VM_USER=OTHER tells you apart), or what a killed terraform has left.",
    "settings": "Terraform refuses a setting; nothing was made.",
    "locked": "Another terraform works on your state. Wait for it; if none does, a killed one has left its lock: "
    "terraform force-unlock ID.",
    "provider": "Google's provider for Terraform can't be fetched.",
}


def trouble(text: str) -> tuple[str, str]:
    """Return the kind of an error of Terraform (``other`` if unknown), and its message."""
    flat = re.sub(r"\s+", " ", re.sub(r"^[│╷╵]|[├─│]+", " ", text, flags=re.MULTILINE))
    for kind, sign in SIGNS.items():
        if found := re.search(sign, flat, re.IGNORECASE):
            start = max(flat.rfind("Error: ", 0, found.end()), found.start() - 240, 0)
            return kind, flat[start : found.end() + 240].strip()
    start = flat.find("Error: ")
    return "other", flat[start if start >= 0 else -600 :][:600].strip()


def may_still_run(workspace: Workspace) -> str:
    """Return the commands that show and remove what may be left, without Terraform."""
    choice = workspace.choice()
    project = choice.get("project") or "PROJECT"
    zone, region = choice.get("zone") or "ZONE", (choice.get("zone") or "REGION-a").rpartition("-")[0]
    return "\n".join(
        (
            "To see what runs, and to remove it by hand:",
            f"    gcloud compute instances list --project {project} --filter=labels.owner={workspace.user}",
            f"    gcloud compute instances delete {workspace.name} --zone {zone} --project {project}",
            f"    gcloud compute firewall-rules delete {workspace.name}-ssh --project {project}",
            f"    gcloud compute networks subnets delete {workspace.name} --region {region} --project {project}",
            f"    gcloud compute networks delete {workspace.name} --project {project}",
            f"    gcloud iam service-accounts delete {workspace.name}@{project}.iam.gserviceaccount.com --project {project}",
        )
    )
