# On a Windows machine with an XDNA2 NPU: check that it fits, run AMD's generator, measure the bundle this came in.
# Run it in the conda environment of the Ryzen AI installation (conda activate ryzen-ai-1.8.0).
#   -Recipe  full_fusion (default, up to 4096 tokens) | token_fusion (up to 16384) | basic | eager
#   -Source  quark (default: the checkpoint) | oga (the ONNX Runtime GenAI model, which skips the generator's export)
# $env:TAPEOUT names the command that validates.
param(
    [ValidateSet('full_fusion', 'token_fusion', 'basic', 'eager')] [string] $Recipe = '',
    [ValidateSet('quark', 'oga')] [string] $Source = 'quark'
)
$ErrorActionPreference = 'Stop'
$manifest = Get-Content -Raw -Encoding UTF8 (Join-Path $PSScriptRoot 'ryzen_ai.json') | ConvertFrom-Json
$requires = $manifest.requires

function Stop-With([int] $code, [string] $what, [string] $step) {
    [Console]::Error.WriteLine("error: $what")
    [Console]::Error.WriteLine(" help: $step")
    exit $code
}

function Test-File([string] $name, [string] $expected) {
    $path = Join-Path $PSScriptRoot $name
    if (-not (Test-Path $path) -or (Get-FileHash -Algorithm SHA256 $path).Hash.ToLower() -ne $expected) {
        Stop-With 5 "$name is not the file that was shipped" 'copy the package again'
    }
}

function Get-Npu([string] $id) {
    $vendor, $device = $id.Split(':')
    Get-CimInstance Win32_PnPEntity | Where-Object { $_.DeviceID -like "PCI\VEN_$vendor&DEV_$device*" } |
        Select-Object -First 1
}

Test-File 'quark/model.safetensors' $requires.checkpoint_sha256
Test-File 'oga/model.onnx.data' $requires.oga_sha256

# The device.
$npu = Get-Npu $requires.pci_id
if (-not $npu) {
    if (Get-Npu $requires.refused_pci_id) {
        Stop-With 3 'XDNA1 (Phoenix, Hawk Point) runs convolutional networks in INT8 only, no language model' `
            'run this on a machine with an XDNA2 NPU (Strix, Krackan), or take the CPU package of the bundle'
    }
    Stop-With 3 "this machine has no XDNA2 NPU (PCI $($requires.pci_id))" 'run this on a Ryzen AI 300 machine'
}

# The driver.
$driver = Get-CimInstance Win32_PnPSignedDriver | Where-Object { $_.DeviceID -eq $npu.DeviceID } | Select-Object -First 1
if (-not $driver -or [version] $driver.DriverVersion -lt [version] $requires.npu_driver_min) {
    $found = if ($driver) { $driver.DriverVersion } else { 'none' }
    Stop-With 3 "NPU driver $found; Ryzen AI $($requires.ryzen_ai) needs $($requires.npu_driver_min) or newer" `
        'install the NPU driver that AMD publishes with this release'
}

# The release.
$installed = if ($env:RYZEN_AI_INSTALLATION_PATH) { Split-Path -Leaf $env:RYZEN_AI_INSTALLATION_PATH.TrimEnd('\', '/') } else { '' }
if ($installed -ne $requires.ryzen_ai) {
    $found = if ($installed) { "Ryzen AI $installed" } else { 'no Ryzen AI installation (RYZEN_AI_INSTALLATION_PATH is not set)' }
    Stop-With 3 "$found; this package is for $($requires.ryzen_ai)" "install Ryzen AI $($requires.ryzen_ai), and run this in its conda environment"
}
if (-not (Get-Command model_generate -ErrorAction SilentlyContinue)) {
    Stop-With 3 'model_generate is not on the path' "conda activate ryzen-ai-$($requires.ryzen_ai)"
}

# The generator.
if (-not $Recipe) { $Recipe = $manifest.recipe }
$arguments = @($manifest.model_generate.$Recipe | ForEach-Object { if ($_ -eq 'quark') { $Source } else { $_ } })
Push-Location $PSScriptRoot
try {
    if (Test-Path 'generated') { Remove-Item -Recurse -Force 'generated' }
    Write-Output "model_generate $($arguments -join ' ')"
    & model_generate @arguments
    if ($LASTEXITCODE -ne 0) { Stop-With 6 "model_generate ended with code $LASTEXITCODE" "try -Recipe basic, or -Source oga" }
    if (-not (Test-Path 'generated/genai_config.json')) {
        Stop-With 6 'model_generate wrote no genai_config.json' 'try -Recipe basic, or -Source oga'
    }
    [ordered]@{
        recipe = $Recipe; source = $Source; arguments = $arguments
        ryzen_ai = $installed; npu_driver = $driver.DriverVersion; npu = $npu.Name
    } | ConvertTo-Json | Set-Content -Encoding UTF8 'finalized.json'
} finally { Pop-Location }

# The measurement.
$tapeout = if ($env:TAPEOUT) { $env:TAPEOUT } else { 'tapeout' }
$bundle = Split-Path -Parent (Split-Path -Parent $PSScriptRoot)
if (-not (Test-Path (Join-Path $bundle 'manifest.json'))) {
    Write-Output 'this package is not in a bundle: nothing to validate against'
} elseif (Get-Command $tapeout -ErrorAction SilentlyContinue) {
    & $tapeout validate $bundle
    exit $LASTEXITCODE
} else {
    Write-Output "to measure it: pip install 'tapeout[device]', then: tapeout validate $bundle"
}
