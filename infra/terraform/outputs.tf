output "name" {
  description = "Name of the VM."
  value       = google_compute_instance.machine.name
}

output "zone" {
  description = "Zone of the VM."
  value       = google_compute_instance.machine.zone
}

output "address" {
  description = "Its public IPv4 address; empty while it is stopped."
  value       = google_compute_instance.machine.network_interface[0].access_config[0].nat_ip
}

output "created" {
  description = "When it was made (RFC 3339)."
  value       = google_compute_instance.machine.creation_timestamp
}

output "status" {
  description = "RUNNING, or TERMINATED where it is stopped."
  value       = google_compute_instance.machine.current_status
}

output "choice" {
  description = "What it was made with, so that another machine with the same state can price it and does not replace it unawares."
  value = {
    project      = var.project
    machine_type = var.machine_type
    gpu_type     = var.gpu_type
    gpu_count    = var.gpu_count
    disk_gb      = var.disk_gb
    disk_type    = var.disk_type
    image        = var.image
    spot         = var.spot
    secure_boot  = var.secure_boot
    idle_minutes = var.idle_minutes
  }
}
