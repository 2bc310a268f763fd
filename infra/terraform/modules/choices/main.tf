# From what was chosen to names, labels and settings of the VM. No provider, so that `terraform test` runs anywhere.

locals {
  zone   = coalesce(var.zone, var.zones[0])
  region = regex("^(.*)-[a-z]$", local.zone)[0]
  name   = "pneumonia-${var.user}"

  # Stopping keeps the disk, so that vm-up starts the VM again and the sweep resumes.
  limited = var.spot || var.max_run_hours > 0
}
