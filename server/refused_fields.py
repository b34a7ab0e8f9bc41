"""Fields that other servers take and this one refuses by name, whichever API they come by.

They hand the engine tensors, templates or keys of a client's making. Passed over in silence, they
would leave a client in the belief that they had an effect.
"""

from typing import Annotated, Any

from server.body import BodyModel, unsupported


class RefusedFields(BodyModel):
    cache_salt: Annotated[Any, unsupported()] = None
    chat_template: Annotated[Any, unsupported()] = None
    ec_transfer_params: Annotated[Any, unsupported()] = None
    image_embeds: Annotated[Any, unsupported()] = None
    kv_transfer_params: Annotated[Any, unsupported()] = None
    logits_processors: Annotated[Any, unsupported([])] = None
    media_io_kwargs: Annotated[Any, unsupported({})] = None
    mm_hashes: Annotated[Any, unsupported()] = None
    multi_modal_data: Annotated[Any, unsupported()] = None
    multi_modal_uuids: Annotated[Any, unsupported()] = None
    prompt_embeds: Annotated[Any, unsupported()] = None
    video_embeds: Annotated[Any, unsupported()] = None
    vllm_xargs: Annotated[Any, unsupported({})] = None
