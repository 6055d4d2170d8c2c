#!/bin/sh
# Wait until CustomResourceDefinitions are Established and serve the wanted version.
# usage: crd-gate [-a SOURCE] [-o] SECONDS NAME/VERSION...   (KUBECONFIG names the cluster)
#   -a SOURCE  where one is missing, apply SOURCE (a file, a folder or a URL) first
#   -o         Cilium's operator registers them: on time-out, tell how it is
# A finished Helm release does not prove that they exist, and after an upgrade they exist for a
# while without the new version.
set -eu

source='' operator=''
while getopts a:o option; do
	case $option in
	a) source=$OPTARG ;;
	o) operator=yes ;;
	*) exit 2 ;;
	esac
done
shift $((OPTIND - 1))
seconds=$1
shift
started=$(date +%s)
columns='N:.metadata.name,E:.status.conditions[?(@.type=="Established")].status,V:.spec.versions[?(@.served==true)].name'

# Print a line for each of "$@" that is not ready yet; exit 1 with the reason where nobody answers.
missing() {
	names=''
	for wanted in "$@"; do
		names="$names ${wanted%/*}"
	done
	# shellcheck disable=SC2086
	found=$(kubectl --request-timeout=10s get crd $names --ignore-not-found --no-headers \
		--output="custom-columns=$columns" 2>&1) || {
		echo "the API server does not answer: $found"
		return 1
	}
	for wanted in "$@"; do
		echo "$found" | awk -v name="${wanted%/*}" -v version="${wanted##*/}" '
			$1 == name { seen = 1; established = $2; served = $3 }
			END {
				if (!seen) print name ": no such CRD"
				else if (established != "True") print name ": not Established"
				else if (index("," served ",", "," version ",") == 0)
					print name ": serves " served ", not " version
			}'
	done
}

elapsed() {
	echo $(($(date +%s) - started))
}

explain_operator() {
	echo "Cilium's operator registers them."
	if [ -z "$(kubectl get nodes --output=name 2>&1)" ]; then
		echo "No node is there to run it: join a worker."
		return
	fi
	echo "Its pods:"
	kubectl --namespace kube-system get pods -l io.cilium/app=operator 2>&1 | tail -n 5
	kubectl --namespace kube-system get events --field-selector type=Warning \
		--sort-by=.lastTimestamp 2>/dev/null | grep cilium-operator | tail -n 3 || true
	kubectl --namespace kube-system logs -l io.cilium/app=operator --tail=3 2>/dev/null || true
}

if [ -n "$source" ] && [ -n "$(missing "$@")" ]; then
	echo "applying $source"
	kubectl apply --server-side --filename="$source"
fi

told=''
while lacking=$(missing "$@") || true; [ -n "$lacking" ]; do
	now="$(echo "$lacking" | wc -l) $(($(elapsed) / 15))"
	if [ "$now" != "$told" ]; then
		told=$now
		echo "waiting for $(echo "$lacking" | tr '\n' ';' | sed 's/;$//; s/;/; /g') ($(elapsed) s)"
	fi
	if [ "$(elapsed)" -ge "$seconds" ]; then
		{
			echo "not ready after $seconds s:"
			echo "$lacking"
			[ -z "$operator" ] || explain_operator
		} >&2
		exit 1
	fi
	sleep 0.5
done
echo "$# CRDs Established"
