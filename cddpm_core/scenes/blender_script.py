"""What Blender runs: the frames of some scenes, with CLEVR's base scene, shapes and rubber.

``blender -b base_scene.blend --factory-startup -P blender_script.py -- JOB.json``. A job has

- ``assets`` and ``folder``: CLEVR's assets, and where the images go;
- ``size`` (width, height), ``samples`` per pixel, and whether to ``denoise``;
- ``gpu``: whether to use one if Blender can;
- ``watched``: whether to end when the standard input does, that is with the process that writes it;
- ``radius`` of the objects, ``colours``, name to linear (red, green, blue), and ``yaw``, the angle
  from Blender's x axis to that of the objects;
- ``scenes``, each with ``lamp_shift`` (3, 3), key, fill and back lamp in Blender's world axes, with
  ``objects``, each (name, x, y, rotation) as a `SceneObject`, and with ``frames``, each (file name,
  seed); frame k shows the first k + 1 objects, and is not rendered if its name is empty.

A file that exists is kept; a new one gets its name when it is whole, and a line on the standard
output. A fault is the last line, with exit code 1. Only Blender's Python can import this module.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import threading
from typing import Any, NoReturn

import bpy

LAMPS = ("Lamp_Key", "Lamp_Fill", "Lamp_Back")
SHAPES = {"cube": "SmoothCube_v2", "sphere": "Sphere", "cylinder": "SmoothCylinder"}


def main(job: dict[str, Any]) -> None:
    set_up(job)
    print("device", use_gpu() if job["gpu"] else "CPU", flush=True)
    home = {name: tuple(found("objects", name).location) for name in LAMPS}
    cos, sin = math.cos(job["yaw"]), math.sin(job["yaw"])
    rubber = appended(f"{job['assets']}/materials/Rubber.blend", "node_groups", "Rubber")
    shapes, materials = {}, {}
    for about in job["scenes"]:
        todo = {file for file, _ in about["frames"]
                if not os.path.exists(os.path.join(job["folder"], file))}
        if not todo:
            continue
        for row, name in enumerate(LAMPS):
            shift = about["lamp_shift"][row]
            found("objects", name).location = [home[name][i] + shift[i] for i in range(3)]
        shown = []
        for k, (name, x, y, rotation) in enumerate(about["objects"]):
            colour, shape = name.split()
            if shape not in shapes:
                shapes[shape] = appended(f"{job['assets']}/shapes/{SHAPES[shape]}.blend",
                                         "objects", SHAPES[shape])
            if colour not in materials:
                materials[colour] = painted(rubber, job["colours"][colour])
            shown.append(placed(shapes[shape], materials[colour], job["radius"],
                                (cos * x - sin * y, sin * x + cos * y), rotation + job["yaw"]))
            file, seed = about["frames"][k]
            if file in todo:
                render(job["folder"], file, seed)
        for thing in shown:
            bpy.data.objects.remove(thing, do_unlink=True)


def set_up(job: dict[str, Any]) -> None:
    """What the base scene leaves to the version of Blender, and what CLEVR sets in code."""
    scene = bpy.context.scene
    picture, cycles = scene.render, scene.cycles
    picture.engine = "CYCLES"
    (picture.resolution_x, picture.resolution_y), picture.resolution_percentage = job["size"], 100
    picture.image_settings.file_format, picture.image_settings.color_mode = "PNG", "RGB"
    picture.dither_intensity = 0.0
    scene.view_settings.view_transform, scene.view_settings.look = "Standard", "None"
    cycles.samples, cycles.use_animated_seed = job["samples"], False
    cycles.blur_glossy, cycles.transparent_max_bounces = 2.0, 8
    # Some are missing in some versions of Blender.
    for name, value in (("use_adaptive_sampling", False), ("use_light_tree", False),
                        ("use_square_samples", False), ("progressive", "PATH")):
        if hasattr(cycles, name):
            setattr(cycles, name, value)
    cycles.use_denoising = job["denoise"]
    if job["denoise"]:
        try:
            cycles.denoiser = "OPENIMAGEDENOISE"
        except TypeError:
            fail("cycles_denoise: this Blender was built without Open Image Denoise")


def use_gpu() -> str:
    """Make Cycles compute on the GPUs, if it knows some, and return the name of the device."""
    about = bpy.context.preferences.addons["cycles"].preferences
    for kind in ("OPTIX", "CUDA", "HIP", "METAL", "ONEAPI"):
        try:
            about.compute_device_type = kind
        except TypeError:  # Blender was built without it
            continue
        if hasattr(about, "refresh_devices"):
            about.refresh_devices()
        else:  # before Blender 3
            about.get_devices()
        for device in about.devices:
            device.use = device.type == kind
        names = [device.name for device in about.devices if device.use]
        if names:
            bpy.context.scene.cycles.device = "GPU"
            return ", ".join(names)
    bpy.context.scene.cycles.device = "CPU"
    return "CPU"


def found(kind: str, name: str) -> Any:
    """A thing of the base scene."""
    try:
        return getattr(bpy.data, kind)[name]
    except KeyError:
        fail(f"base_scene.blend has no {name} in its {kind}")


def appended(path: str, kind: str, name: str) -> Any:
    """A thing of another file."""
    with bpy.data.libraries.load(path) as (there, into):
        if name not in getattr(there, kind):
            fail(f"{path} has no {name} in its {kind}")
        setattr(into, kind, [name])
    return getattr(into, kind)[0]


def painted(rubber: bpy.types.NodeTree, colour: list[float]) -> bpy.types.Material:
    """A material that is CLEVR's rubber in a colour."""
    material = bpy.data.materials.new("rubber")
    material.use_nodes = True
    nodes, links = material.node_tree.nodes, material.node_tree.links
    nodes.clear()
    group, end = nodes.new("ShaderNodeGroup"), nodes.new("ShaderNodeOutputMaterial")
    group.node_tree = rubber
    group.inputs["Color"].default_value = [*colour, 1.0]
    links.new(group.outputs[0], end.inputs["Surface"])
    return material


def placed(shape: bpy.types.Object, material: bpy.types.Material, radius: float,
           place: tuple[float, float], rotation: float) -> bpy.types.Object:
    """A further object in the scene; it shares the mesh of its shape."""
    thing = shape.copy()
    bpy.context.scene.collection.objects.link(thing)
    if not thing.material_slots:
        thing.data.materials.append(None)
    for slot in thing.material_slots:
        slot.link, slot.material = "OBJECT", material
    thing.scale, thing.location = [radius] * 3, (*place, radius)
    thing.rotation_euler = (0.0, 0.0, rotation)
    return thing


def render(folder: str, file: str, seed: int) -> None:
    bpy.context.scene.cycles.seed = seed
    if "FINISHED" not in bpy.ops.render.render():
        fail(f"the rendering of {file} was cancelled")
    temporary = os.path.join(folder, f".{file}.{os.getpid()}.tmp")
    bpy.data.images["Render Result"].save_render(temporary)
    with open(temporary, "rb") as saved:
        png = without_text(saved.read())
    with open(temporary, "wb") as saved:
        saved.write(png)
    os.replace(temporary, os.path.join(folder, file))
    print("frame", file, flush=True)


def without_text(png: bytes) -> bytes:
    """A PNG file without times and other text, so that equal images are equal files."""
    kept, at = png[:8], 8
    while at < len(png):
        end = at + 12 + int.from_bytes(png[at:at + 4], "big")
        if png[at + 4:at + 8] in (b"IHDR", b"IDAT", b"IEND"):
            kept += png[at:end]
        at = end
    return kept


class Fault(Exception):
    """A sentence for the user."""


def fail(sentence: str) -> NoReturn:
    raise Fault(sentence)


def end_with_the_input() -> None:
    while os.read(0, 1024):
        pass
    os._exit(1)


if __name__ == "__main__":
    code, watched = 0, False
    try:
        with open(sys.argv[sys.argv.index("--") + 1], encoding="utf-8") as job_file:
            this = json.load(job_file)
        watched = this["watched"]
        if watched:
            # Ctrl-C is for the process that watches; here it would cut a frame short.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            threading.Thread(target=end_with_the_input, daemon=True).start()
        main(this)
    except Exception as error:
        kind = "" if isinstance(error, Fault) else type(error).__name__ + ": "
        print(kind + " ".join(str(error).split()), flush=True)
        code = 1
    if watched:
        os._exit(code)  # some versions wait for the thread, and so for ever
    sys.exit(code)
