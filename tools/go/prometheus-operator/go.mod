module autojoin/tools/prometheus-operator

go 1.26

// The CRD of ServiceMonitors.
require github.com/prometheus-operator/prometheus-operator v0.80.1
