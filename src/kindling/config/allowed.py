"""The `_target_`s that a config may name, and the arguments that it does not set."""

# The class of each section's part.
KINDS = {
    "data": "lightning.pytorch.LightningDataModule",
    "net": "torch.nn.Module",
    "task": "lightning.pytorch.LightningModule",
    "finetune": "lightning.pytorch.callbacks.Callback",
    "trainer": "lightning.pytorch.Trainer",
    "callbacks": "lightning.pytorch.callbacks.Callback",
    "logger": "lightning.pytorch.loggers.Logger",
}

# Arguments that the engine passes to a component whose signature has them; no config sets them.
OF_SPEC = ("spec", "in_shape", "num_outputs")
GIVEN = {
    "data": ("seed", "num_threads"),
    "net": OF_SPEC,
    "task": (*OF_SPEC, "net"),
    "callbacks": ("monitor", "mode"),
    "logger": ("save_dir", "name", "version", "run_name"),
    "trainer": ("use_distributed_sampler",),
}
# Arguments that the caller of an optimizer or scheduler passes; without them, it is a partial.
PASSED_LATER = ("params", "optimizer")
# The trainer's arguments that have a section of their own, or that the run decides.
ELSEWHERE = {
    "trainer.callbacks": "use the section 'callbacks', which gives each a name",
    "trainer.logger": "use the section 'logger'; metrics.csv and TensorBoard are always written",
    "trainer.default_root_dir": "a run's directory is made by the command, under logs/",
}

# The parts of the libraries whose classes do no more than compute, or that the Trainer asks for.
LIBRARIES = (
    "torch.nn",
    "torch.optim",
    "torchvision.models",
    "torchvision.ops",
    "torchvision.transforms",
    "timm.models",
    "timm.layers",
    "torchmetrics",
    "lightning.pytorch",
    "lightning.fabric.plugins",
)
# Modules of the classes that a config from elsewhere may name, beside the user's own: they only
# compute, or every training of the configs needs them.
OF_STRANGERS = (
    "src",
    "torch.nn",
    "torch.optim",
    "torchvision",
    "timm",
    "lightning.pytorch.trainer.trainer.Trainer",
    "lightning.pytorch.callbacks.early_stopping.EarlyStopping",
)
# The user's own packages: there, any class and any function with a return annotation.
ROOMS = ("src.data", "src.nets", "src.tasks")
# The kinds that may be an argument of another part, whatever its annotation allows.
NESTED = (
    "torch.nn.Module",  # torchmetrics and batch transforms among them
    "torch.optim.Optimizer",
    "torch.optim.lr_scheduler.LRScheduler",
)
# The kinds that may be an argument of the Trainer.
OF_TRAINER = (
    "lightning.pytorch.accelerators.Accelerator",
    "lightning.pytorch.profilers.Profiler",
    "lightning.pytorch.strategies.Strategy",
    "lightning.pytorch.plugins.LayerSync",
    "lightning.pytorch.plugins.Precision",
    "lightning.fabric.plugins.CheckpointIO",
    "lightning.fabric.plugins.ClusterEnvironment",
)
# Of an allowed kind, and yet refused: building or using them opens a file, a socket or a process.
# Read by hand in torch 2.15, torchvision 0.29, torchmetrics 1.9 and lightning 2.6.6; a test builds
# the others and watches what they open. Patterns of a module's or a class's path.
REFUSED = {
    r"lightning.fabric.plugins.environments.lsf": "reads a file",
    r"lightning.fabric.plugins.environments.mpi": "starts MPI",
    r"lightning.pytorch.demos": "downloads its data",
    r"lightning.pytorch.serve.servable_module_validator": "starts a server",
    r"lightning.pytorch.strategies.deepspeed": "reads a file",
    r"src.kindling.training.(callbacks.checkpoint|run_loggers)": "writes a file",
    r"torchmetrics.functional": "its nets load weights from files and servers",
    r"torchmetrics.(audio.(dnsmos|nisqa)|multimodal.(clip_iqa|clip_score))": "downloads a model",
    r"torchmetrics.image.(arniqa|dists|fid|inception|kid|lpip|mifid)": "downloads a model",
    r"torchmetrics.image.perceptual_path_length": "downloads a model",
    r"torchmetrics.text.(bert|infolm)": "downloads or loads a model by name",
}
