"""Error messages of Google Cloud and its Terraform provider, verbatim."""

STOCKOUT = """Error: Error waiting for instance to create: The zone 'projects/xray-study-12/zones/us-central1-a' does not
have enough resources available to fulfill the request.  Try a different zone, or try again later."""
EXHAUSTED = "Error: Error creating instance: googleapi: Error 503: ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS, stockout"
UNAVAILABLE = """Error: A n1-standard-2 VM instance with 1 nvidia-tesla-t4 accelerator(s) is currently unavailable in the
us-central1-b zone. Alternatively, you can try your request again with a different VM hardware configuration."""
NO_GPU_HERE = """Error: Error creating instance: googleapi: Error 404: The resource
'projects/xray-study-12/zones/us-central1-b/acceleratorTypes/nvidia-tesla-t4' was not found, notFound"""
QUOTA = "Error: Error waiting for instance to create: Quota 'NVIDIA_T4_GPUS' exceeded.  Limit: 0.0 in region us-central1."
QUOTA_GLOBAL = """Error: Error creating instance: googleapi: Error 403: Quota 'GPUS_ALL_REGIONS' exceeded.  Limit: 0.0
globally., quotaExceeded"""
REFUSED = """Error: Error creating Network: Post "https://compute.googleapis.com/compute/v1/projects/x/global/networks":
oauth2: "invalid_grant" "Bad Request\""""
NOT_ALLOWED = """Error: Error creating instance: googleapi: Error 403: Required 'compute.instances.create' permission for
'projects/xray-study-12/zones/us-central1-a/instances/pneumonia-ada', forbidden"""
API_OFF = """Error: Error creating Network: googleapi: Error 403: Compute Engine API has not been used in project 123456
before or it is disabled. Enable it by visiting https://console.developers.google.com/ then retry., accessNotConfigured"""
NO_BILLING = """Error: googleapi: Error 403: This API method requires billing to be enabled. Please enable billing on
project #123456"""
TAKEN = """Error: Error creating Network: googleapi: Error 409: The resource 'projects/x/global/networks/pneumonia-ada'
already exists, alreadyExists"""
