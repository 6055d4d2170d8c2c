module autojoin/tools/gateway-api-1.2

go 1.26

// The Gateway API's CRDs, for Cilium 1.17 and 1.18.
require sigs.k8s.io/gateway-api v1.2.0
