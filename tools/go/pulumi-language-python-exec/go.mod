module autojoin/lab/tools/pulumi-language-python-exec

go 1.26

// The script that runs the program, at the version of the Python SDK in requirements.txt.
require github.com/pulumi/pulumi/sdk/v3 v3.272.0
