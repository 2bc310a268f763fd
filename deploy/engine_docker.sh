# shellcheck shell=bash disable=SC2034,SC2154
# image_test.sh with Docker.
name=pneumonia-serve-test-$$

build() { docker build --target serve --tag pneumonia-serve . ; }
size_mib() { echo $(($(docker image inspect --format '{{.Size}}' pneumonia-serve) / 1048576)); }
inside() { docker run --rm --read-only --tmpfs /tmp --entrypoint "$1" pneumonia-serve "${@:2}"; }
start() {
    docker run --detach --name "$name" --read-only --tmpfs /tmp --publish "127.0.0.1:$port:8080" \
        --volume "$bundle:/opt/ml/model:ro" pneumonia-serve serve > /dev/null
}
stop() {
    docker stop --time 20 "$name" > /dev/null
    return "$(docker inspect --format '{{.State.ExitCode}}' "$name")"
}
clean() { docker rm --force "$name"; }
