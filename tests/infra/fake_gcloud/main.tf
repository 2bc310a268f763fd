# Stands in for Google Cloud in tests: the same outputs and the same name of the VM, from built-in resources alone. Scripts in the
# folder `behaviour` fail as Google does.
terraform {
  backend "local" {}
}

variable "user" { type = string }
variable "zone" {
  type    = string
  default = null
}
variable "behaviour" { type = string } # from TF_VAR_behaviour
variable "idle_minutes" {
  type = number
  validation {
    condition     = var.idle_minutes >= 10
    error_message = "Idle minutes must be 10 or more."
  }
}

variable "machine_type" { type = string }
variable "gpu_type" { type = string }
variable "gpu_count" { type = number }
variable "disk_type" { type = string }
variable "disk_gb" { type = number }
variable "spot" { type = bool }

resource "terraform_data" "network" {
  input = var.user
}

resource "terraform_data" "clock" {
  input = timestamp()
  lifecycle {
    ignore_changes = [input]
  }
}

resource "terraform_data" "machine" {
  depends_on       = [terraform_data.network]
  triggers_replace = [var.zone]
  input            = { zone = var.zone, behaviour = var.behaviour, name = "pneumonia-${var.user}" }
  provisioner "local-exec" {
    command = "sh ${var.behaviour}/make.sh ${coalesce(var.zone, "none")}"
  }
  provisioner "local-exec" {
    when    = destroy
    command = "sh ${self.input.behaviour}/remove.sh ${self.input.zone}"
  }
}

output "name" { value = terraform_data.machine.output.name }
output "zone" { value = terraform_data.machine.output.zone }
output "address" { value = "192.0.2.7" }
output "choice" {
  value = { machine_type = var.machine_type, gpu_type = var.gpu_type, gpu_count = var.gpu_count, disk_type = var.disk_type, disk_gb = var.disk_gb, spot = var.spot }
}
output "created" { value = terraform_data.clock.output }
