# What may be chosen, and what each choice must look like. The root module links to this file, so that there is one copy.
# The defaults (the study's machine) are in study.auto.tfvars.json beside the root, where infra/vm.py reads them too.

variable "project" {
  description = "Google Cloud project that pays for the VM."
  type        = string
  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{4,28}[a-z0-9]$", var.project))
    error_message = "A project ID has 6 to 30 lower-case letters, digits and hyphens, like 'xray-study-12'. It is the ID, not the display name: `gcloud projects list` shows both."
  }
}

variable "user" {
  description = "Whose VM it is. Part of every name, so that two users in one project do not collide."
  type        = string
  validation {
    condition     = can(regex("^[a-z]([a-z0-9-]{0,18}[a-z0-9])?$", var.user))
    error_message = "A user has 1 to 20 lower-case letters, digits and hyphens, begins with a letter and ends with no hyphen, since Google's names do."
  }
}

variable "ssh_public_key" {
  description = "The public key that opens the VM (one line, as in ~/.ssh/id_ed25519.pub). There are no passwords."
  type        = string
  validation {
    condition     = can(regex("^(ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp(256|384|521)|sk-(ssh-ed25519|ecdsa-sha2-nistp256)@openssh\\.com) AAAA[A-Za-z0-9+/=]+( [^\\r\\n]*)?$", var.ssh_public_key))
    error_message = "The SSH key must be one line of a public key file, like 'ssh-ed25519 AAAA... you@laptop'. A private key does not belong here."
  }
}

variable "caller_cidr" {
  description = "The only IPv4 address that may reach port 22, as a /32."
  type        = string
  validation {
    condition     = can(cidrhost(var.caller_cidr, 0)) && can(regex("^[0-9.]+/32$", var.caller_cidr)) && !startswith(var.caller_cidr, "0.0.0.0")
    error_message = "The caller's address must be one IPv4 address as a /32, like '203.0.113.4/32'. A wider range would let strangers try their luck."
  }
}

variable "zones" {
  description = "Zones in which to look for the GPU, in the order that infra/vm.py tries them."
  type        = list(string)
  validation {
    condition     = length(var.zones) > 0 && alltrue([for zone in var.zones : can(regex("^[a-z]+-[a-z]+[0-9]+-[a-z]$", zone))])
    error_message = "Zones are names like 'us-central1-a' (a region, a hyphen and a letter), at least one."
  }
}

variable "zone" {
  description = "The zone of this attempt, one of `zones`; null takes the first."
  type        = string
  default     = null
  validation {
    condition     = var.zone == null ? true : contains(var.zones, var.zone)
    error_message = "The zone must be one of `zones`, so that a slip of the pen does not make a VM on another continent."
  }
}

variable "machine_type" {
  description = "Machine type. n1 takes a T4, P100 or V100; g2 comes with L4, a2-highgpu with A100; e2 and n2 have no GPU."
  type        = string
  validation {
    condition     = can(regex("^((n1|n2|e2)-(standard|highmem|highcpu)-[0-9]+|g2-standard-[0-9]+|a2-highgpu-[0-9]+g)$", var.machine_type))
    error_message = "The machine type must be of the families n1, n2, e2, g2 or a2-highgpu, like 'n1-standard-2'."
  }
}

variable "gpu_type" {
  description = "GPU kind; empty for a VM without one."
  type        = string
  validation {
    condition     = contains(["", "nvidia-tesla-t4", "nvidia-tesla-p100", "nvidia-tesla-v100", "nvidia-l4", "nvidia-tesla-a100"], var.gpu_type)
    error_message = "The GPU must be nvidia-tesla-t4, nvidia-tesla-p100, nvidia-tesla-v100, nvidia-l4, nvidia-tesla-a100 or empty."
  }
  validation {
    condition = contains(lookup({
      n1 = ["", "nvidia-tesla-t4", "nvidia-tesla-p100", "nvidia-tesla-v100"]
      g2 = ["nvidia-l4"]
      a2 = ["nvidia-tesla-a100"]
    }, substr(var.machine_type, 0, 2), [""]), var.gpu_type)
    error_message = "That machine type can't have that GPU: n1 takes T4, P100 and V100, g2 comes with nvidia-l4, a2-highgpu with nvidia-tesla-a100, the others have none."
  }
}

variable "gpu_count" {
  description = "How many GPUs; 0 without one."
  type        = number
  validation {
    condition     = contains([0, 1, 2, 4, 8], var.gpu_count)
    error_message = "The number of GPUs must be 0, 1, 2, 4 or 8."
  }
  validation {
    condition     = (var.gpu_type == "") == (var.gpu_count == 0)
    error_message = "A GPU kind needs a number of at least 1, and no GPU (gpu_type empty) needs 0."
  }
}

variable "disk_gb" {
  description = "Size of the only disk, in GB: system, CUDA and packages take about 25, decoded images and runs the rest."
  type        = number
  validation {
    condition     = var.disk_gb >= 40 && var.disk_gb <= 2000 && floor(var.disk_gb) == var.disk_gb
    error_message = "The disk must have 40 to 2000 GB, a whole number: less than 40 fills up in mid-sweep."
  }
}

variable "disk_type" {
  description = "Kind of disk: pd-standard (slow, cheapest), pd-balanced or pd-ssd."
  type        = string
  validation {
    condition     = contains(["pd-standard", "pd-balanced", "pd-ssd"], var.disk_type)
    error_message = "The disk must be pd-standard, pd-balanced or pd-ssd."
  }
  validation {
    condition     = !(startswith(var.machine_type, "g2-") && var.disk_type == "pd-standard")
    error_message = "g2 machines take no pd-standard disk: choose pd-balanced."
  }
}

variable "image" {
  description = "Boot image as PROJECT/FAMILY: an Ubuntu, or one of Google's deep learning VM families with the driver in it."
  type        = string
  validation {
    condition     = can(regex("^[a-z][a-z0-9-]+/[a-z0-9-]+$", var.image))
    error_message = "The image must be PROJECT/FAMILY, like 'ubuntu-os-cloud/ubuntu-2404-lts-amd64' or 'deeplearning-platform-release/FAMILY'."
  }
}

variable "spot" {
  description = "true: a spot VM, about a third of the price, that Google may stop at any moment with 30 s notice."
  type        = bool
  nullable    = false
}

variable "secure_boot" {
  description = "true: only signed kernel modules load. False by default, since a driver that is built on the VM is not signed."
  type        = bool
  nullable    = false
}

variable "idle_minutes" {
  description = "After how many idle minutes the VM stops itself."
  type        = number
  validation {
    condition     = var.idle_minutes >= 10 && var.idle_minutes <= 1440 && floor(var.idle_minutes) == var.idle_minutes
    error_message = "Idle minutes must be a whole number from 10 (less would stop it between two commands) to 1440 (a day)."
  }
}

variable "max_run_hours" {
  description = "Last safety net: Google stops the VM after so many hours, whatever it does; 0 for never. vm-up starts it again."
  type        = number
  validation {
    condition     = var.max_run_hours >= 0 && var.max_run_hours <= 336 && floor(var.max_run_hours) == var.max_run_hours
    error_message = "The longest run must be a whole number of hours from 0 (no limit) to 336 (two weeks)."
  }
}

variable "budget" {
  description = "Value of the label `budget`, by which billing reports and alerts can be filtered."
  type        = string
  validation {
    condition     = can(regex("^[a-z0-9][a-z0-9_-]{0,62}$", var.budget))
    error_message = "The budget label has 1 to 63 lower-case letters, digits, hyphens and underscores, since Google's labels do."
  }
}

variable "vm_roles" {
  description = "Project roles of the VM's service account. None are needed; the two allowed ones let a logging agent of yours write."
  type        = set(string)
  validation {
    condition     = length(setsubtract(var.vm_roles, ["roles/logging.logWriter", "roles/monitoring.metricWriter"])) == 0
    error_message = "The VM may have roles/logging.logWriter and roles/monitoring.metricWriter, nothing else: who breaks into it shall find nothing."
  }
}
