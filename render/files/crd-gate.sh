#!/bin/sh
# Wait until the named CustomResourceDefinitions are Established.
# usage: crd-gate SECONDS CRD...   (KUBECONFIG names the cluster)
# A finished Helm release does not prove that they exist: Cilium's operator registers them.
set -eu

seconds=$1
shift
deadline=$(($(date +%s) + seconds))

established() {
	kubectl get crd "$1" --ignore-not-found \
		-o 'jsonpath={.status.conditions[?(@.type=="Established")].status}' 2>&1
}

explain() {
	echo "CRD $1 is not Established after $seconds s (found: ${2:-no such CRD})."
	echo "Cilium's operator registers it. Its pods:"
	kubectl --namespace kube-system get pods -l io.cilium/app=operator 2>&1 | tail -n 5
	echo "With no node that can run it, join a worker first or give it a toleration."
}

for name in "$@"; do
	while state=$(established "$name") && [ "$state" != True ]; do
		if [ "$(date +%s)" -ge "$deadline" ]; then
			explain "$name" "$state" >&2
			exit 1
		fi
		sleep 0.5
	done
	if [ "$state" != True ]; then
		echo "the API server does not answer for CRD $name: $state" >&2
		exit 1
	fi
	echo "$name Established"
done
