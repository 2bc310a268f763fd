# `terraform test` here needs no provider and no cloud.

variables {
  project        = "xray-study-12"
  user           = "ada"
  ssh_public_key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEXAMPLE ada@laptop"
  caller_cidr    = "203.0.113.4/32"
  zones          = ["us-central1-a", "europe-west4-b"]
  machine_type   = "n1-standard-2"
  gpu_type       = "nvidia-tesla-t4"
  gpu_count      = 1
  disk_gb        = 50
  disk_type      = "pd-balanced"
  image          = "ubuntu-os-cloud/ubuntu-2404-lts-amd64"
  spot           = true
  secure_boot    = false
  idle_minutes   = 30
  max_run_hours  = 24
  budget         = "pneumonia"
  vm_roles       = []
}

run "a_spot_vm_stops_and_keeps_its_disk" {
  command = plan
  assert {
    condition = jsonencode(output.scheduling) == jsonencode({
      provisioning_model          = "SPOT"
      preemptible                 = true
      automatic_restart           = false
      on_host_maintenance         = "TERMINATE"
      instance_termination_action = "STOP"
      max_run_seconds             = [86400]
    })
    error_message = "Google would refuse or delete this spot VM."
  }
}

run "on_demand_without_a_limit_is_restarted" {
  command = plan
  variables {
    spot          = false
    max_run_hours = 0
  }
  assert {
    condition     = output.scheduling.provisioning_model == "STANDARD" && output.scheduling.automatic_restart && output.scheduling.instance_termination_action == null
    error_message = "An on-demand VM must come back after a failure of its host."
  }
  assert {
    condition     = output.scheduling.on_host_maintenance == "TERMINATE"
    error_message = "A VM with a GPU can't migrate."
  }
}

run "on_demand_with_a_limit_stops_at_it" {
  command = plan
  variables {
    spot = false
  }
  assert {
    condition     = output.scheduling.instance_termination_action == "STOP"
    error_message = "max_run_duration needs a termination action."
  }
}

run "without_a_gpu_it_may_migrate" {
  command = plan
  variables {
    machine_type  = "e2-standard-2"
    gpu_type      = ""
    gpu_count     = 0
    spot          = false
    max_run_hours = 0
  }
  assert {
    condition     = length(output.accelerators) == 0 && output.scheduling.on_host_maintenance == "MIGRATE"
    error_message = "A VM without a GPU asks for none."
  }
}

run "names_carry_the_user_and_fit_into_a_service_account" {
  command = plan
  variables {
    user = "abcdefghijklmnopqrst"
  }
  assert {
    condition     = output.name == "pneumonia-abcdefghijklmnopqrst" && length(output.name) <= 30
    error_message = "A service account's name has 30 characters at most."
  }
  assert {
    condition     = output.labels.owner == var.user && output.labels.budget == "pneumonia"
    error_message = "Owner and budget must be on the bill."
  }
}

run "the_zone_gives_the_region" {
  command = plan
  variables {
    zone = "europe-west4-b"
  }
  assert {
    condition     = output.region == "europe-west4" && output.zone == "europe-west4-b"
    error_message = "The subnetwork would lie in another region than the VM."
  }
}

run "no_zone_is_the_first" {
  command = plan
  assert {
    condition     = output.zone == "us-central1-a"
    error_message = "Without a zone the first counts."
  }
}

run "only_the_caller_and_only_this_key_come_in" {
  command = plan
  assert {
    condition     = output.source_ranges == ["203.0.113.4/32"] && output.metadata["block-project-ssh-keys"] == "true" && output.metadata["ssh-keys"] == "ubuntu:${var.ssh_public_key}"
    error_message = "More than the caller's key and address would come in."
  }
  assert {
    condition     = startswith(output.metadata["startup-script"], "#!/bin/bash\nIDLE_MINUTES=30\n")
    error_message = "The first watch must know its minutes."
  }
}

run "a_whole_network_is_refused" {
  command = plan
  variables {
    caller_cidr = "0.0.0.0/0"
  }
  expect_failures = [var.caller_cidr]
}

run "a_range_of_256_addresses_is_refused" {
  command = plan
  variables {
    caller_cidr = "203.0.113.0/24"
  }
  expect_failures = [var.caller_cidr]
}

run "a_private_key_is_refused" {
  command = plan
  variables {
    ssh_public_key = "-----BEGIN OPENSSH PRIVATE KEY-----"
  }
  expect_failures = [var.ssh_public_key]
}

run "two_lines_of_keys_are_refused" {
  command = plan
  variables {
    ssh_public_key = "ssh-ed25519 AAAAC3Nz a@b\nroot:ssh-ed25519 AAAAC3Nz c@d"
  }
  expect_failures = [var.ssh_public_key]
}

run "a_t4_in_a_g2_is_refused" {
  command = plan
  variables {
    machine_type = "g2-standard-4"
  }
  expect_failures = [var.gpu_type]
}

run "an_l4_in_a_g2_is_fine" {
  command = plan
  variables {
    machine_type = "g2-standard-4"
    gpu_type     = "nvidia-l4"
  }
  assert {
    condition     = jsonencode(output.accelerators) == jsonencode([{ type = "nvidia-l4", count = 1 }])
    error_message = "One L4."
  }
}

run "a_slow_disk_in_a_g2_is_refused" {
  command = plan
  variables {
    machine_type = "g2-standard-4"
    gpu_type     = "nvidia-l4"
    disk_type    = "pd-standard"
  }
  expect_failures = [var.disk_type]
}

run "a_gpu_kind_without_a_number_is_refused" {
  command = plan
  variables {
    gpu_count = 0
  }
  expect_failures = [var.gpu_count]
}

run "three_gpus_are_refused" {
  command = plan
  variables {
    gpu_count = 3
  }
  expect_failures = [var.gpu_count]
}

run "every_other_bad_value_is_refused" {
  command = plan
  variables {
    project       = "Xray"
    user          = "Ada Lovelace"
    zones         = ["us-central1"]
    machine_type  = "n1-standard"
    disk_gb       = 10
    image         = "ubuntu"
    idle_minutes  = 1
    max_run_hours = 1000
    budget        = "My Budget"
    vm_roles      = ["roles/owner"]
  }
  expect_failures = [
    var.project, var.user, var.zones, var.machine_type, var.disk_gb, var.image, var.idle_minutes,
    var.max_run_hours, var.budget, var.vm_roles,
  ]
}

run "a_zone_outside_the_list_is_refused" {
  command = plan
  variables {
    zone = "asia-east1-a"
  }
  expect_failures = [var.zone]
}
