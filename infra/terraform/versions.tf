terraform {
  required_version = ">= 1.9" # validations that look at other variables
  required_providers {
    google = {
      source  = "hashicorp/google"
      version = "~> 6.50" # every attribute below was compared with the schema of 6.50.0
    }
  }
  # The state is a file; infra/vm.py puts it under infra/.state/USER/. Shared state in a bucket: backend.gcs.tf.example.
  backend "local" {}
}

# Credentials come from the environment alone: GOOGLE_APPLICATION_CREDENTIALS, or `gcloud auth application-default login`.
provider "google" {
  project = var.project
  region  = module.choices.region
  zone    = module.choices.zone
}
