# On the device: compile this package for its GPU, then measure the bundle it came in.
# $env:PYTHON names the interpreter that has OpenVINO GenAI; $env:TAPEOUT the command that validates.
$ErrorActionPreference = 'Stop'
$python = if ($env:PYTHON) { $env:PYTHON } else { 'python' }
$tapeout = if ($env:TAPEOUT) { $env:TAPEOUT } else { 'tapeout' }
& $python (Join-Path $PSScriptRoot 'finalize.py')
if ($LASTEXITCODE -ne 0) { exit $LASTEXITCODE }

$bundle = Split-Path -Parent (Split-Path -Parent $PSScriptRoot)
if (-not (Test-Path (Join-Path $bundle 'manifest.json'))) {
    Write-Output 'this package is not in a bundle: nothing to validate against'
} elseif (Get-Command $tapeout -ErrorAction SilentlyContinue) {
    & $tapeout validate $bundle
    exit $LASTEXITCODE
} else {
    Write-Output "to measure it: pip install 'tapeout[device]', then: tapeout validate $bundle"
}
