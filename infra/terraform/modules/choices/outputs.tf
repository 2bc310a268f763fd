output "name" {
  description = "Name of the VM, its network, firewall rule and service account."
  value       = local.name
}

output "zone" {
  description = "Zone of the VM."
  value       = local.zone
}

output "region" {
  description = "Region of the zone."
  value       = local.region
}

output "labels" {
  description = "Labels of the VM and its disk, for billing reports."
  value       = { app = "pneumonia", owner = var.user, budget = var.budget, made-by = "terraform" }
}

output "accelerators" {
  description = "GPUs: one entry of type and count, or none."
  value       = var.gpu_count == 0 ? [] : [{ type = var.gpu_type, count = var.gpu_count }]
}

output "source_ranges" {
  description = "Who may reach port 22."
  value       = [var.caller_cidr]
}

output "scheduling" {
  description = "Spot or not, and what happens when Google takes the VM away or its time is over."
  value = {
    provisioning_model          = var.spot ? "SPOT" : "STANDARD"
    preemptible                 = var.spot
    automatic_restart           = !var.spot
    on_host_maintenance         = var.spot || var.gpu_count > 0 ? "TERMINATE" : "MIGRATE" # GPUs can't migrate
    instance_termination_action = local.limited ? "STOP" : null
    max_run_seconds             = var.max_run_hours == 0 ? [] : [var.max_run_hours * 3600]
  }
}

output "metadata" {
  description = "Metadata of the VM: keys of this VM alone, no serial console, and the watch until vm-setup is done."
  value = {
    block-project-ssh-keys = "true"
    enable-oslogin         = "FALSE" # else Google ignores ssh-keys
    serial-port-enable     = "FALSE"
    ssh-keys               = "ubuntu:${var.ssh_public_key}"
    startup-script         = "#!/bin/bash\nIDLE_MINUTES=${var.idle_minutes}\n${file("${path.module}/first_watch.sh")}"
  }
}
