# One GPU VM that belongs to one user, in a network of its own, reachable from one address by one key.

module "choices" {
  source         = "./modules/choices"
  project        = var.project
  user           = var.user
  ssh_public_key = var.ssh_public_key
  caller_cidr    = var.caller_cidr
  zones          = var.zones
  zone           = var.zone
  machine_type   = var.machine_type
  gpu_type       = var.gpu_type
  gpu_count      = var.gpu_count
  disk_gb        = var.disk_gb
  disk_type      = var.disk_type
  image          = var.image
  spot           = var.spot
  secure_boot    = var.secure_boot
  idle_minutes   = var.idle_minutes
  max_run_hours  = var.max_run_hours
  budget         = var.budget
  vm_roles       = var.vm_roles
}

# Not the project's default network, which lets the whole world try SSH and RDP.
resource "google_compute_network" "network" {
  name                    = module.choices.name
  auto_create_subnetworks = false
}

resource "google_compute_subnetwork" "subnetwork" {
  # checkov:skip=CKV_GCP_26: flow logs cost money for each connection, and the only open port admits one address
  # checkov:skip=CKV_GCP_76: IPv6 is not in use here (stack_type IPV4_ONLY)
  name                     = module.choices.name
  network                  = google_compute_network.network.id
  region                   = module.choices.region
  ip_cidr_range            = "10.10.0.0/28"
  private_ip_google_access = true
  stack_type               = "IPV4_ONLY"
}

# A network of one's own denies all that comes in; this is the only exception.
resource "google_compute_firewall" "ssh" {
  name          = "${module.choices.name}-ssh"
  network       = google_compute_network.network.id
  direction     = "INGRESS"
  source_ranges = module.choices.source_ranges
  target_tags   = [module.choices.name]
  allow {
    protocol = "tcp"
    ports    = ["22"]
  }
}

resource "google_service_account" "account" {
  account_id   = module.choices.name
  display_name = "GPU VM of ${var.user}"
}

resource "google_project_iam_member" "role" {
  for_each = var.vm_roles
  project  = var.project
  role     = each.value
  member   = google_service_account.account.member
}

resource "google_compute_instance" "machine" {
  # checkov:skip=CKV_GCP_38: Google's own keys encrypt the disk, which holds public X-rays; a key of one's own would have to be kept somewhere
  # checkov:skip=CKV_GCP_40: SSH from the caller's machine and downloads need an address; the firewall admits one caller to port 22
  name                      = module.choices.name
  zone                      = module.choices.zone
  machine_type              = var.machine_type
  labels                    = module.choices.labels
  tags                      = [module.choices.name]
  metadata                  = module.choices.metadata
  desired_status            = "RUNNING" # vm-up starts a VM that was stopped or taken away
  allow_stopping_for_update = true

  boot_disk {
    auto_delete = true
    initialize_params {
      image  = var.image
      size   = var.disk_gb
      type   = var.disk_type
      labels = module.choices.labels
    }
  }

  dynamic "guest_accelerator" {
    for_each = module.choices.accelerators
    content {
      type  = guest_accelerator.value.type
      count = guest_accelerator.value.count
    }
  }

  scheduling {
    provisioning_model          = module.choices.scheduling.provisioning_model
    preemptible                 = module.choices.scheduling.preemptible
    automatic_restart           = module.choices.scheduling.automatic_restart
    on_host_maintenance         = module.choices.scheduling.on_host_maintenance
    instance_termination_action = module.choices.scheduling.instance_termination_action
    dynamic "max_run_duration" {
      for_each = module.choices.scheduling.max_run_seconds
      content {
        seconds = max_run_duration.value
      }
    }
  }

  shielded_instance_config {
    enable_secure_boot          = var.secure_boot
    enable_vtpm                 = true
    enable_integrity_monitoring = true
  }

  network_interface {
    subnetwork = google_compute_subnetwork.subnetwork.id
    access_config {} # an address that goes with the VM
  }

  service_account {
    email  = google_service_account.account.email
    scopes = ["logging-write", "monitoring-write"]
  }

  lifecycle {
    ignore_changes = [boot_disk[0].initialize_params[0].image] # a newer image of the family must not replace a VM at work
  }
}
